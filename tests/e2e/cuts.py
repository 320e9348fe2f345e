"""A mesh in a network of its own with two apps on it, and what every cut of it has to leave true."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from scheduler.service import COPIES_OF_FIVE
from tests.e2e.cluster import wait_until
from tests.e2e.namespaces import NetworkCluster, Resident, network_cluster

ROOT = Path(__file__).resolve().parents[2]
WHEREAMI = ROOT / "examples" / "whereami" / "app.yaml"
WITNESS = Path(__file__).parent / "witness" / "app.yaml"
NODES = 5
LINES = 10_000


@contextmanager
def mesh_with_apps() -> Iterator[NetworkCluster]:
    """Five voters, `whereami` with a replica on each, and the exclusive `witness`, which writes down when it lives.

    The clocks of the first two can be moved, where Debian's faketime is installed.
    """
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        with network_cluster(folder) as mesh:
            first = mesh.add(movable_clock=True)
            mesh.join_all(NODES - 1)
            wait_until("five voters", lambda: len(quorum(first)["voters"]) == NODES)
            for words in (
                ("deploy", "--manifest", str(WHEREAMI)),
                ("apps", "scale", "whereami", "--replicas", str(NODES)),
                ("deploy", "--manifest", str(WITNESS)),  # a new leader waits 15 s with what is exclusive
            ):
                done = first.run(*words)
                assert done.status == 0, done.err
            wait_until("of each source three nodes have a copy", lambda: least_copies(mesh.nodes) >= COPIES_OF_FIVE)
            yield mesh
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def least_copies(nodes: Sequence[Resident]) -> int:
    """On how many nodes the source lies that the fewest have."""
    have = Counter(path.name for node in nodes for path in (node.home / "bundles").glob("*.bundle"))
    return min(have.values())


def quorum(node: Resident) -> dict[str, Any]:
    told: dict[str, Any] = node.status()["quorum"]
    return told


def leads(nodes: Collection[Resident]) -> bool:
    """One of these leads, and all of them know it."""
    leaders = {quorum(node)["leader"] for node in nodes}
    return len(leaders) == 1 and leaders <= {node.name for node in nodes}


def agree(nodes: Collection[Resident]) -> bool:
    """Each of them says: one leader, heard by itself, the same index, all alive, all that is wanted healthy."""
    told = [node.status() for node in nodes]
    return (
        len({(each["quorum"]["leader"], each["quorum"]["term"], each["applied"]) for each in told}) == 1
        and all(each["quorum"]["has_quorum"] and not each["quorum"]["by_hearsay"] for each in told)
        and all(each["nodes"].get("alive") == len(nodes) for each in told)
        and all(other["direct"] for each in told for other in each["sees"])
        and all(each["apps"]["healthy"] == each["apps"]["replicas"] for each in told)
    )


def state(seer: Resident, node: Resident) -> str:
    """How this node is, as the seer says."""
    return str(seer.client.get(f"/v1/nodes/{node.name}")["state"])


def story(seer: Resident, node: Resident) -> list[dict[str, Any]]:
    """What `nodes why` of the seer tells of this node, line by line."""
    told: list[dict[str, Any]] = seer.client.get(f"/v1/nodes/{node.name}/why")["story"]
    return told


def kinds(seer: Resident, node: Resident, *, since: int = 0) -> list[str]:
    """What became of the node, in order; the lines before `since` were told before."""
    return [line["kind"] for line in story(seer, node)[since:]]


def placed(node: Resident, app: str) -> set[tuple[str, str, int]]:
    """Which replica is where, by which entry of the ledger: the same for as long as nothing was moved."""
    return {(each["id"], each["node"], each["index"]) for each in node.client.get(f"/v1/apps/{app}")["placed"]}


def holder(mesh: NetworkCluster, by: Resident) -> Resident:
    """The node that the witness is placed on."""
    names = [name for _, name, _ in placed(by, "witness")]
    assert len(names) == 1, f"the witness is placed {len(names)} times"
    return next(node for node in mesh.nodes if node.name == names[0])


def lives(node: Resident) -> list[tuple[float, float, str, str]]:
    """When each process of the witness lived, from its first word to its last: from, to, replica, process."""
    said = []
    for line in node.client.lines("GET", "/v1/apps/witness/logs", query={"lines": LINES}, timeout=30.0):
        words = line["text"].split()
        if words[:1] == ["alive"]:
            said.append((words[1], float(words[2]), line["replica"]))
    spans = []
    for process, lines in groupby(sorted(said), key=lambda each: each[0]):
        times = [(at, replica) for _, at, replica in lines]
        spans.append((times[0][0], times[-1][0], times[0][1], process))
    return sorted(spans)


def overlaps(spans: Iterable[tuple[float, float, str, str]]) -> list[str]:
    """Where the next one began before the one before it had ended."""
    return [
        f"{after[2]} began {before[1] - after[0]:.1f} s before {before[2]} ended"
        for before, after in pairwise(spans)
        if after[0] <= before[1]
    ]
