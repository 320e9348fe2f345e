"""Done when, at a size that fits: the demo, joining, apps that outlive the daemon, and failover."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Daemon, cluster, freecloud, wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "whereami" / "app.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that an app's own user can pass through, with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made.chmod(0o711)
    return made


@pytest.fixture
def mesh(folder: Path) -> Iterator[Cluster]:
    with cluster(folder) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.deadline(180)
def test_demo_kills_the_leader_and_the_app_answers_throughout(folder: Path) -> None:
    done = freecloud("demo", "--json", "--folder", str(folder / "demo"), timeout=180)
    assert done.status == 0, done.err
    told = done.json
    living = [node for node in told["nodes"] if node["name"] != told["killed"]]
    assert sum(len(node["runs"]) for node in living) == 3
    assert [node["role"] for node in living].count("leader") == 1
    assert told["failed"] == 0, done.err
    assert told["requests"] > 20


@pytest.mark.deadline(120)
def test_a_token_that_admits_nobody_says_which_kind_it_is(mesh: Cluster, folder: Path) -> None:
    mesh.start(1)
    token = mesh.token(uses=1)
    late = mesh.token(expires="1s")
    middle = len(token) // 2
    altered = token[:middle] + ("a" if token[middle] != "a" else "b") + token[middle + 1 :]
    past = time.monotonic() + 1.5  # the leader's clock decides, and it is this machine's
    wait_until("the short token is past", lambda: time.monotonic() > past)
    assert _refusal(folder, late) == (4, "expired")
    assert _refusal(folder, altered)[0] == 4
    assert _refusal(folder, token[:-8])[0] == 4
    other = Cluster(folder / "other")
    try:
        (stranger,) = other.start(1)
        foreign = other.token()
        mesh.nodes[0].destroy()
        done = mesh.nodes[0].join(foreign)
        assert (done.status, done.err.count("\n")) == (4, 1)
        assert "another mesh" in done.err
        stranger.destroy()
        assert _refusal(folder, foreign)[0] == 5  # nobody of that mesh answers
    finally:
        other.stop()


def _refusal(folder: Path, token: str) -> tuple[int, str]:
    joiner = Daemon("probe", folder / "probe")
    done = joiner.join(token)
    word = next((word for word in ("expired", "used up", "damaged", "truncated", "foreign") if word in done.err), "")
    return done.status, word


@pytest.mark.deadline(240)
def test_apps_outlive_the_daemon_and_a_dead_node_is_replaced(mesh: Cluster) -> None:
    nodes = mesh.start(3)
    done = nodes[0].run("deploy", "--manifest", str(EXAMPLE))
    assert done.status == 0, done.err
    for node in nodes:
        status, headers, body = node.get("whereami", "/where")
        assert status == 200
        assert json.loads(body)["replica"] == headers["x-replica"]
    victim = nodes[1]
    before = app_pids(victim)
    assert before
    victim.kill_daemon()
    assert app_pids(victim) == before
    assert victim.up().status == 0
    wait_until("the restarted daemon reports its replica", lambda: healthy(nodes[0]) == 3)
    assert app_pids(victim) == before
    leader = mesh.leader()
    leader.destroy()
    rest = [node for node in nodes if node is not leader]
    wait_until("a new leader", lambda: rest[0].status()["quorum"]["leader"] not in (None, leader.name))
    wait_until("healthy elsewhere", lambda: healthy(rest[0]) >= 2)
    for node in rest:
        assert node.get("whereami", "/where")[0] == 200


def app_pids(node: Daemon) -> set[int]:
    """The pids of the example's processes that run out of this node's home."""
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        named = f"FREECLOUD_NODE={node.name}\0".encode() in environment
        if named and any(word.endswith(b"app.py") for word in words):
            found.add(int(folder.name))
    return found


def healthy(node: Daemon) -> int:
    return int(node.client.get("/v1/apps/whereami")["healthy"])
