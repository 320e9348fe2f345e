"""Claim: after any cut of five nodes, all agree within 5 s of its end; in no cut did what is exclusive run twice.

Each sample is the slowest of its kind of cut in its long form: three against two for 30 s with leader and exclusive app
among the two, one-way and partial cuts for 20 s, a minute of flapping, a path that swallows packets beyond 1,280 bytes
while a release is deployed, a daemon stopped for 30 s, clocks that step an hour to and fro. Every node is a daemon in a
network namespace of its own; agreement is read from all five APIs: one leader, one index, everybody alive, everything
healthy. There is no peer: nothing else in Debian makes this promise.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from bench.harness import Claim, Figure, Run, main
from bench.meshes import moment
from bench.samples import NotMeasuredError
from mesh.errors import FreecloudError
from tests.e2e.cuts import agree, holder, kinds, leads, lives, mesh_with_apps, overlaps, placed, quorum
from tests.e2e.namespaces import NetworkCluster, Resident, missing

TARGET_S = 5.0
HEALED_S_MAX = 60.0
SPLIT_S = 30.0
BRIDGED_S = 20.0
FLAPS_S = 60.0
STILL_S = 30.0
STEP_S = 3600
STEPPED_S = 10.0
PATH_BYTES = 1280


def measure(run: Run) -> None:
    if why := missing():
        raise NotMeasuredError(why)
    try:
        with mesh_with_apps() as mesh:
            moment("all to agree", lambda: agree(mesh.nodes))
            for cut in CUTS:
                run.figure(_slowest(run, mesh, cut))
            twice = overlaps(lives(mesh.nodes[0]))
            found = len(lives(mesh.nodes[0]))
    except (AssertionError, FreecloudError) as error:
        raise NotMeasuredError(str(error)) from error
    for each in twice:
        run.note(f"exclusive, and yet: {each}")
    run.figure(Figure("exclusive runs that overlap another", len(twice), "runs", f"of {found}", target=1))


def _slowest(run: Run, mesh: NetworkCluster, cut: Callable[[NetworkCluster], None]) -> Figure:
    name = cut.__name__.replace("_", " ").strip()
    samples = []
    for _ in range(run.count):
        cut(mesh)
        samples.append(_until_agreed(mesh))
        run.note(f"{name}: all agree {samples[-1]:.2f} s after its end")
    return Figure(f"{name}: from its end until all agree", max(samples), "s", f"slowest of {run.count}", TARGET_S)


def _until_agreed(mesh: NetworkCluster) -> float:
    began = time.monotonic()
    moment("all to agree", lambda: agree(mesh.nodes), HEALED_S_MAX)
    return time.monotonic() - began


def _other(mesh: NetworkCluster, leader: Resident) -> Resident:
    """The node that runs what is exclusive, or another if that is the leader."""
    witness = holder(mesh, leader)
    return witness if witness is not leader else mesh.rest(leader)[0]


def three_against_two(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    other = _other(mesh, leader)
    majority = mesh.rest(leader, other)
    mesh.cut([leader, other], majority)
    _last(SPLIT_S)
    assert leads(majority), "the majority has no leader"
    assert not quorum(leader)["has_quorum"], "the minority takes itself for a majority"
    mesh.heal()


def one_way(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    mesh.deafen(leader, _other(mesh, leader))
    _last_unmoved(mesh, BRIDGED_S)
    mesh.heal()


def partial(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    mesh.cut([leader], [_other(mesh, leader)])
    _last_unmoved(mesh, BRIDGED_S)
    mesh.heal()


def flapping(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    other = _other(mesh, leader)
    before = placed(leader, "whereami")
    until = time.monotonic() + FLAPS_S
    while time.monotonic() < until:
        mesh.cut([other], mesh.rest(other))
        _last(1.5)
        mesh.heal()
        _last(1.5)
    assert placed(leader, "whereami") == before, "flapping moved an app"


def black_hole(mesh: NetworkCluster) -> None:
    node = mesh.rest(mesh.leader())[0]
    mesh.black_hole(node, PATH_BYTES)
    done = node.run("apps", "exec", "whereami", "--", "true")
    _last(BRIDGED_S)
    assert "down" not in kinds(mesh.leader(), node)[-1:], done.err
    mesh.heal()


def stopped(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    pid = _other(mesh, leader).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        _last(STILL_S)
    finally:
        os.kill(pid, signal.SIGCONT)


def stepped_clocks(mesh: NetworkCluster) -> None:
    ahead, behind = mesh.nodes[:2]
    for sign in (1, -1, 0):
        ahead.step_clock(sign * STEP_S)
        behind.step_clock(-sign * STEP_S)
        _last(STEPPED_S)
        assert agree(mesh.nodes), "a moved clock changed something"


def _last_unmoved(mesh: NetworkCluster, seconds: float) -> None:
    third = mesh.nodes[-1]
    before = placed(third, "whereami"), placed(third, "witness")
    _last(seconds)
    assert (placed(third, "whereami"), placed(third, "witness")) == before, "a cut that others bridge moved an app"


def _last(seconds: float) -> None:
    """The fault's own length."""
    time.sleep(seconds)


CUTS = (three_against_two, one_way, partial, flapping, black_hole, stopped, stepped_clocks)

CLAIM = Claim("cuts", __doc__ or "", measure, smoke=1, full=3, realtime=False)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
