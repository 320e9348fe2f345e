"""Claim: a node is in the mesh within a second of `freecloud join`, at the 99th percentile of 50 joins (target 1 s).

From the start of the command to the inviter's list showing the node alive. Each joiner is a real daemon in a fresh
home; it is removed again, so that the mesh stays at three. The peer: `member add` and the start of an etcd member,
until the others list it as started.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.etcd import EtcdCluster, missing_etcd
from bench.harness import Claim, Figure, Peer, Run, Sample, alternate, main
from bench.meshes import launch, mesh, moment, scratch
from bench.samples import NotMeasuredError, is_scattered, tail
from tests.e2e.cluster import Cluster, Daemon

NODES = 3
TARGET_S = 1.0


def measure(run: Run) -> None:
    missing = missing_etcd()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        standing = stack.enter_context(mesh(folder, NODES))
        numbers = itertools.count(1)

        def ours() -> float:
            number = next(numbers)
            run.note(f"join {number} of {run.count}")
            return join_once(standing, folder / f"j{number}", f"j{number}")

        sides: list[Sample] = [ours]
        if not missing:
            (folder / "etcd").mkdir()
            etcd = stack.enter_context(EtcdCluster(folder / "etcd", NODES))
            names = (f"x{number}" for number in itertools.count())
            sides.append(lambda: join_etcd(etcd, names))
        samples = alternate(run.count, sides)
    basis, value = tail(samples[0])
    peer = Peer("etcd", tail(samples[1])[1]) if len(samples) > 1 else Peer("etcd", reason=missing)
    run.figure(Figure("join until listed alive", value, "s", basis, TARGET_S, peer, is_scattered(samples[0])))
    run.medians("join until listed alive", samples[0], peer=("etcd", samples[1] if len(samples) > 1 else missing))


def join_once(standing: Cluster, home: Path, name: str) -> float:
    """One join, and its undoing; how long it took."""
    inviter = standing.nodes[0]
    token = standing.token()
    joiner = Daemon(name, home)
    began = time.monotonic()
    process = launch(joiner, "join", "-", token=token)
    try:
        moment(f"{name} to be alive", lambda: is_alive(inviter, name))
        took_s = time.monotonic() - began
        _, told = process.communicate(timeout=60)
        if process.returncode != 0:
            raise NotMeasuredError(f"a join ended with status {process.returncode}: {told.strip()}")
        inviter.client.delete(f"/v1/nodes/{name}")
    finally:
        process.kill()
        process.wait()
        joiner.destroy()
    moment(f"{name} to be gone", lambda: name not in rows(inviter))
    shutil.rmtree(home, ignore_errors=True)
    return took_s


def join_etcd(etcd: EtcdCluster, names: Iterator[str]) -> float:
    name = next(names)
    took_s = etcd.join(name)
    etcd.leave(name)
    etcd.wait_for_leader()
    return took_s


def rows(inviter: Daemon) -> dict[str, str]:
    """The members by name, with their states."""
    return {row["name"]: row["state"] for row in inviter.client.get("/v1/nodes")["nodes"]}


def is_alive(inviter: Daemon, name: str) -> bool:
    return rows(inviter).get(name) == "alive"


CLAIM = Claim("join", __doc__ or "", measure, smoke=3, full=50)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
