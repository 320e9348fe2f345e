"""Done when, line 8: five nodes, each in a network namespace of its own, and every kind of cut between them.

The long forms (SIGSTOP for 30 s, a minute of flapping) and the 5 s to agreement are `bench/cuts.py`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.meshes import manifest_with
from tests.e2e.cluster import wait_until
from tests.e2e.cuts import (
    WHEREAMI,
    agree,
    holder,
    kinds,
    leads,
    lives,
    mesh_with_apps,
    overlaps,
    placed,
    quorum,
    state,
    story,
)
from tests.e2e.namespaces import NetworkCluster, Resident, missing

MISSING = missing()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(MISSING), reason=f"cuts in network namespaces: {MISSING}")]

HOUR_S = 3600
UNLED_S = 9.5
"""After eight seconds without a leader the shim of an exclusive app would have ended it."""

EVERY_PATH_BYTES = 1280
"""What IPv6 asks of every path; the hole in the test swallows all that is larger."""


@pytest.fixture(scope="module")
def lasting() -> Iterator[NetworkCluster]:
    with mesh_with_apps() as made:
        yield made


@pytest.fixture
def mesh(lasting: NetworkCluster) -> Iterator[NetworkCluster]:
    """Whole before each cut; after each one it heals by itself, and no two witnesses ever lived at once."""
    nodes = lasting.nodes
    wait_until("all agree", lambda: agree(nodes))
    yield lasting
    lasting.heal()
    wait_until("all agree again", lambda: agree(nodes))
    assert not overlaps(lives(nodes[0])), overlaps(lives(nodes[0]))


@pytest.mark.deadline(240)
def test_of_three_against_two_the_three_go_on_and_the_two_say_so(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    witness = holder(mesh, leader)
    other = witness if witness is not leader else mesh.rest(leader)[0]
    minority, majority = [leader, other], mesh.rest(leader, other)
    mesh.cut(minority, majority)
    wait_until("the three have a leader of their own", lambda: leads(majority))
    done = majority[0].run("deploy", "--manifest", str(WHEREAMI))
    assert done.status == 0, done.err
    for node in minority:
        says_that_it_is_a_minority(node, minority, majority)
    wait_until("the three see the two down", lambda: {state(majority[0], node) for node in minority} == {"down"})
    accusation = next(line for line in reversed(story(majority[0], other)) if line["kind"] == "suspected")
    assert accusation["by"] in {node.name for node in majority}
    assert "no ack" in accusation["text"]
    assert kinds(majority[0], other)[-1] == "down"
    # 23 s, and 15 more with each other leader that a busy machine elects meanwhile.
    wait_until("one of the three runs what is exclusive", lambda: is_healthy(mesh, majority), limit_s=180.0)
    wait_until("the two see the three down", lambda: {state(leader, node) for node in majority} == {"down"})
    assert story(leader, majority[0])[-1]["by"] in {node.name for node in minority}
    mesh.heal()
    wait_until("all agree", lambda: agree(mesh.nodes))
    assert kinds(majority[0], other)[-1] == "alive"
    assert kinds(leader, majority[0])[-1] == "alive"


def says_that_it_is_a_minority(node: Resident, minority: list[Resident], majority: list[Resident]) -> None:
    wait_until("it knows whom it reaches", lambda: len(quorum(node)["reached"]) == len(minority))
    done = node.run("nodes", "label", node.name, "cut=yes")
    assert done.status == 5, done
    reached = ", ".join(sorted(each.name for each in minority))
    silent = ", ".join(sorted(each.name for each in majority))
    assert f"2 of 5 voters reached ({reached}; nothing is heard of {silent}), 3 needed" in done.err
    told = quorum(node)
    assert not told["has_quorum"]
    assert told["age_s"] > 1.0
    for words in (("nodes", "list"), ("apps", "show", "whereami")):
        done = node.run(*words)
        assert done.status == 0, done.err
        assert "no quorum: what this node knows is" in done.err
    text = node.run("status").out
    assert f"NO: 2 of 5 voters reached ({reached})" in text
    assert "what you see is" in text
    for _ in range(3):
        assert node.get("whereami", "/where")[0] == 200


def is_healthy(mesh: NetworkCluster, nodes: list[Resident]) -> bool:
    told = nodes[0].client.get("/v1/apps/witness")
    if told["healthy"] == 1:
        return holder(mesh, nodes[0]) in nodes
    raise AssertionError(" / ".join(nodes[0].client.get("/v1/apps/witness/why")["lines"]))


@pytest.mark.deadline(240)
def test_a_node_that_its_leader_does_not_hear_takes_part_by_way_of_the_others(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    mute = next(node for node in mesh.rest(leader) if node is not holder(mesh, leader))
    nothing_moves_though_nothing_passes(mesh, leader, mute, one_way=True)


@pytest.mark.deadline(240)
def test_two_that_do_not_hear_each_other_and_are_heard_by_all_lose_nothing(mesh: NetworkCluster) -> None:
    """The leader, and the node that runs what is exclusive: it has to go on, in the same process."""
    leader = mesh.leader()
    witness = holder(mesh, leader)
    nothing_moves_though_nothing_passes(mesh, leader, witness if witness is not leader else mesh.rest(leader)[0])


def nothing_moves_though_nothing_passes(
    mesh: NetworkCluster, leader: Resident, far: Resident, *, one_way: bool = False
) -> None:
    third = mesh.rest(leader, far)[0]
    before = {app: placed(third, app) for app in ("whereami", "witness")}
    process = lives(third)[-1][3]
    term = quorum(third)["term"]
    began = time.monotonic()
    if one_way:
        mesh.deafen(leader, far)
    else:
        mesh.cut([leader], [far])
    wait_until("it knows its leader through others", lambda: quorum(far)["by_hearsay"])
    done = far.run("nodes", "label", far.name, "cut=some")
    assert done.status == 0, done.err
    wait_until("both tell that others alone reach the other", lambda: both_tell(leader, far))
    time.sleep(max(0.0, began + UNLED_S - time.monotonic()))  # the fault's own length
    assert quorum(far)["by_hearsay"]
    assert quorum(far)["age_s"] < 5.0
    assert {state(third, node) for node in mesh.nodes} == {"alive"}
    assert {app: placed(third, app) for app in before} == before
    assert lives(third)[-1][3] == process
    assert quorum(third)["term"] == term
    for node in mesh.nodes:
        assert node.get("whereami", "/where")[0] == 200
        wait_until(f"{node.name} serves what only one other runs", lambda node=node: node.get("witness")[0] == 200)
    mesh.heal()
    wait_until("both answer each other again", lambda: kinds(leader, far)[-1] == kinds(far, leader)[-1] == "direct")


def both_tell(one: Resident, other: Resident) -> bool:
    return "indirect" in (kinds(one, other)[-1], kinds(other, one)[-1]) and all(
        any(not seen["direct"] for seen in node.status()["sees"]) for node in (one, other)
    )


@pytest.mark.deadline(240)
def test_a_flapping_node_moves_nothing(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    flapping = next(node for node in mesh.rest(leader) if node is not holder(mesh, leader))
    before = {app: placed(leader, app) for app in ("whereami", "witness")}
    told = len(story(leader, flapping))
    for _ in range(5):
        mesh.cut([flapping], mesh.rest(flapping))
        time.sleep(1.0)  # the fault's own rhythm, not a wait for anything
        mesh.heal()
        time.sleep(1.0)
        assert leader.get("whereami", "/where")[0] == 200
    wait_until("all agree", lambda: agree(mesh.nodes))
    assert {app: placed(leader, app) for app in before} == before
    assert "down" not in kinds(leader, flapping, since=told)


@pytest.mark.deadline(240)
def test_a_path_that_swallows_large_packets_passes_a_release(mesh: NetworkCluster, tmp_path: Path) -> None:
    node = mesh.rest(mesh.leader())[0]
    told = {other.name: len(story(other, node)) for other in mesh.rest(node)}
    blob = os.urandom(150_000).hex()
    manifest = manifest_with(tmp_path, "large", {"replicas": 4}, {"blob.txt": blob})
    mesh.black_hole(node, EVERY_PATH_BYTES)
    done = node.run("deploy", "--manifest", str(manifest))
    assert done.status == 0, done.err
    assert done.err.count("again") == 0
    assert all("down" not in kinds(other, node, since=told[other.name]) for other in mesh.rest(node))
    assert all(quorum(each)["has_quorum"] for each in mesh.nodes)
    done = mesh.leader().run("apps", "remove", "large")
    assert done.status == 0, done.err


@pytest.mark.deadline(240)
def test_a_daemon_that_stood_still_finds_back_and_says_what_it_was(mesh: NetworkCluster) -> None:
    leader = mesh.leader()
    still = next(node for node in mesh.rest(leader) if node is not holder(mesh, leader))
    pid = still.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("the others see it down", lambda: state(leader, still) == "down")
        assert leader.get("whereami", "/where")[0] == 200
        accusation = next(line for line in reversed(story(leader, still)) if line["kind"] == "suspected")
        assert "link silent too" in accusation["text"]
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until("all agree", lambda: agree(mesh.nodes))
    assert kinds(leader, still)[-1] == "alive"
    assert "stood-still" in kinds(still, still)
    assert "node.stood-still" in events(still)


@pytest.mark.deadline(240)
def test_clocks_that_are_an_hour_off_change_nothing(mesh: NetworkCluster) -> None:
    ahead, behind = mesh.nodes[:2]
    if ahead.clock is None or behind.clock is None:
        pytest.skip("stepped clocks: faketime is not installed (tests/system-packages.sh)")
    leader = mesh.leader()
    before = {app: placed(leader, app) for app in ("whereami", "witness")}
    told = {node.name: len(story(leader, node)) for node in mesh.nodes}
    for sign in (1, -1):
        ahead.step_clock(sign * HOUR_S)
        behind.step_clock(-sign * HOUR_S)
        for node in (ahead, behind):
            done = node.run("nodes", "label", node.name, f"step={sign}")
            assert done.status == 0, done.err
            assert node.get("whereami", "/where")[0] == 200
        time.sleep(2.0)  # the fault's own length: two probe rounds, some elections
        wait_until("all agree", lambda: agree(mesh.nodes))
        assert all(events(node).count("clock.stepped") >= 1 for node in (ahead, behind))
    for node in (ahead, behind):
        node.step_clock(0)
    wait_until("all agree", lambda: agree(mesh.nodes))
    assert {app: placed(leader, app) for app in before} == before
    for node in mesh.rest(leader):
        assert not {"suspected", "down"} & set(kinds(leader, node, since=told[node.name]))


def events(node: Resident) -> list[str]:
    return [event["kind"] for event in node.client.lines("GET", "/v1/events", query={"follow": 0}, timeout=10.0)]
