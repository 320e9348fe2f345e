"""Done when, line 8: five nodes, each in a network namespace of its own, and every kind of cut between them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import wait_until
from tests.e2e.namespaces import NetworkCluster, Resident, missing, network_cluster

ROOT = Path(__file__).resolve().parents[2]
WHEREAMI = ROOT / "examples" / "whereami" / "app.yaml"
WITNESS = ROOT / "tests" / "e2e" / "witness" / "app.yaml"

NODES = 5
QUIET_S = 1.0
"""The witness writes ten lines a second; a silence this long on a busy machine is no end of its life yet."""

MISSING = missing()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(MISSING), reason=f"cuts in network namespaces: {MISSING}")]


@pytest.fixture(scope="module")
def mesh() -> Iterator[NetworkCluster]:
    """Five nodes that serve an app with a replica on each, and one app that may run only once."""
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    folder.chmod(0o711)
    with network_cluster(folder) as made:
        made.start(NODES)
        nodes = made.nodes
        wait_until("five voters", lambda: len(nodes[0].status()["quorum"]["voters"]) == NODES)
        for manifest in (WHEREAMI, WITNESS):
            done = nodes[0].run("deploy", "--manifest", str(manifest))
            assert done.status == 0, done.err
        done = nodes[0].run("apps", "scale", "whereami", "--replicas", str(NODES))
        assert done.status == 0, done.err
        yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def whole(mesh: NetworkCluster) -> Iterator[NetworkCluster]:
    """The mesh without a cut, before and after each test."""
    wait_until("all agree", lambda: agree(mesh.nodes))
    yield mesh
    mesh.heal()


@pytest.mark.deadline(240)
def test_three_against_two(whole: NetworkCluster) -> None:
    leader = whole.leader()
    other = whole.rest(leader)[0]
    minority, majority = [leader, other], whole.rest(leader, other)
    whole.cut(minority, majority)
    wait_until("the majority has a leader of its own", lambda: leads(majority))
    done = majority[0].run("deploy", "--manifest", str(WHEREAMI))
    assert done.status == 0, done.err
    for node in minority:
        wait_until("the minority knows that it is one", lambda node=node: not quorum(node)["has_quorum"])
        done = node.run("nodes", "label", node.name, "cut=yes")
        assert done.status == 5, done
        assert "2 of 5 voters" in done.err
        assert "3 needed" in done.err
        for served in range(3):
            assert node.get("whereami", "/where")[0] == 200, served
    whole.heal()
    wait_until("all agree", lambda: agree(whole.nodes))


def quorum(node: Resident) -> dict[str, Any]:
    told: dict[str, Any] = node.status()["quorum"]
    return told


def leads(nodes: Collection[Resident]) -> bool:
    """One of these leads, and all of them know it."""
    leaders = {quorum(node)["leader"] for node in nodes}
    return len(leaders) == 1 and leaders <= {node.name for node in nodes}


def agree(nodes: Collection[Resident]) -> bool:
    """One leader, one index, everybody alive for everybody, everything wanted is healthy: as each of them says."""
    told = [node.status() for node in nodes]
    return (
        len({(each["quorum"]["leader"], each["quorum"]["term"], each["applied"]) for each in told}) == 1
        and all(each["quorum"]["has_quorum"] for each in told)
        and all(each["nodes"].get("alive") == len(nodes) for each in told)
        and all(each["apps"]["healthy"] == each["apps"]["replicas"] for each in told)
    )


def lives(mesh: NetworkCluster, app: str = "witness") -> list[tuple[float, float]]:
    """From when to when each process of the app was alive, by its own words, whichever node it ran on."""
    spans = []
    for node in mesh.nodes:
        for log in sorted((node.home / "logs" / app).glob("*.log*")):
            told = [line.split() for line in log.read_text().splitlines()]
            alive = [(words[3], float(words[4])) for words in told if words[2:3] == ["alive"]]
            for _, beats in groupby(alive, key=lambda beat: beat[0]):
                times = [at for _, at in beats]
                spans.append((min(times), max(times)))
    return sorted(spans)
