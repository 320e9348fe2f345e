"""Claim: with the leader killed by kill -9, the mesh accepts a write within 2 s (median of 20), beside etcd's own.

Both sides are three nodes on this machine with their own defaults. One client asks the survivors in turn, gives each
attempt the same time and tries again at once; the figure is from the kill to the first write that was acknowledged.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bench.etcd import EtcdCluster, missing_etcd
from bench.harness import Claim, Run, Sample, alternate, main
from bench.meshes import leader_of, mesh, moment, resume, scratch
from bench.samples import NotMeasuredError
from mesh.errors import FreecloudError
from tests.e2e.cluster import Cluster, Daemon

NODES = 3
TARGET_S = 2.0
ATTEMPT_S = 0.5
PAUSE_S = 0.01
GIVE_UP_S = 60.0


def measure(run: Run) -> None:
    missing = missing_etcd()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        ours = stack.enter_context(mesh(folder, NODES))
        moment("three voters", lambda: len(ours.nodes[0].status()["quorum"]["voters"]) == NODES)
        sides: list[Sample] = [lambda: fail_over(ours, run)]
        if not missing:
            (folder / "etcd").mkdir()
            etcd = stack.enter_context(EtcdCluster(folder / "etcd", NODES))
            sides.append(lambda: fail_over_etcd(etcd))
        samples = alternate(run.count, sides)
    peer = ("etcd", samples[1] if len(samples) > 1 else missing)
    run.medians("leader killed until a write is accepted", samples[0], target=TARGET_S, peer=peer)


def fail_over(ours: Cluster, run: Run) -> float:
    """Kill the leader, write, bring it back, and wait until it has caught up."""
    leader = leader_of(ours)
    survivors = [node for node in ours.nodes if node is not leader]
    mark = f"bench={time.monotonic_ns()}"
    pid = leader.pid
    if pid is None:
        raise NotMeasuredError(f"{leader.name} ended by itself")
    os.kill(pid, signal.SIGKILL)
    took_s = until_accepted([partial(write, node, mark) for node in survivors])
    run.note(f"{leader.name} was killed; a write was accepted after {took_s:.2f} s")
    moment("its home to be free", lambda: leader.pid is None)
    resume(leader)
    target = survivors[0].status()["applied"]
    moment(f"{leader.name} to catch up", lambda: leader.status()["applied"] >= target)
    moment("all links", lambda: all(node.status()["links"] == NODES - 1 for node in ours.nodes))
    return took_s


def write(node: Daemon, mark: str) -> bool:
    try:
        node.client.post(f"/v1/nodes/{node.name}/labels", {"labels": [mark]}, timeout=ATTEMPT_S)
    except FreecloudError:
        return False
    return True


def fail_over_etcd(etcd: EtcdCluster) -> float:
    leader = etcd.wait_for_leader()
    survivors = [member for member in etcd.members if member is not leader]
    mark = str(time.monotonic_ns())
    etcd.kill(leader)
    took_s = until_accepted([partial(member.put, "bench", mark, ATTEMPT_S) for member in survivors])
    etcd.restart(leader)
    etcd.wait_for_leader()
    return took_s


def until_accepted(attempts: list[Callable[[], bool]]) -> float:
    """Try in turn until one succeeds; how long that took."""
    began = time.monotonic()
    for attempt in itertools.cycle(attempts):
        if attempt():
            return time.monotonic() - began
        if time.monotonic() - began > GIVE_UP_S:
            raise NotMeasuredError(f"no write was accepted for {GIVE_UP_S:.0f} s after the leader's death")
        time.sleep(PAUSE_S)
    raise NotMeasuredError("nobody to ask")


CLAIM = Claim("failover", __doc__ or "", measure, smoke=3, full=20)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
