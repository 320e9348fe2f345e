"""Claim: a node that runs a replica is killed with all it runs; the replica is healthy elsewhere within 10 s (median
of 10).

Five nodes, whereami with three replicas; the victims are taken in turn, the leader among them. There is no peer of
this shape in Debian: the figure stands beside its target.
"""

from __future__ import annotations

import sys
import time

from bench.harness import Claim, Run, main
from bench.meshes import deploy, healthy_on, mesh, moment, resume, scratch
from tests.e2e.cluster import Cluster, Daemon

NODES = 5
TARGET_S = 10.0


def measure(run: Run) -> None:
    with scratch() as folder, mesh(folder, NODES) as ours:
        deploy(ours.nodes[0])
        samples = [move_once(ours, turn, run) for turn in range(run.count)]
    run.medians("node killed until its replica is healthy elsewhere", samples, target=TARGET_S)


def move_once(ours: Cluster, turn: int, run: Run) -> float:
    """Kill one holder, wait for three healthy replicas on the living, bring the node back."""
    holders = moment("three healthy replicas", lambda: healthy_on(ours.nodes[0]))
    victim = next(node for node in ours.nodes if node.name == sorted(holders)[turn % len(holders)])
    watcher = next(node for node in ours.nodes if node is not victim)
    leads = watcher.status()["quorum"]["leader"] == victim.name
    victim.destroy()
    began = time.monotonic()
    moment("the replica to be healthy elsewhere", lambda: is_elsewhere(watcher, victim))
    took_s = time.monotonic() - began
    run.note(f"{victim.name}{', the leader,' if leads else ''} was killed; healthy elsewhere after {took_s:.2f} s")
    resume(victim)
    moment("all to be alive", lambda: all(Cluster.alive(node) == NODES for node in ours.nodes))
    return took_s


def is_elsewhere(watcher: Daemon, victim: Daemon) -> bool:
    holders = healthy_on(watcher)
    return bool(holders) and victim.name not in holders


CLAIM = Claim("replica_moves", __doc__ or "", measure, smoke=3, full=10, realtime=False)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
