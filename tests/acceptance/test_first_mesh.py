"""Done when, at a size that fits: the demo, joining, wrong use, apps that outlive the daemon, and failover."""

from __future__ import annotations

import json
import shutil
import socket
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


def test_wrong_use_is_one_line_that_says_what_to_do(mesh: Cluster, folder: Path) -> None:
    (node,) = mesh.start(1)
    again = node.run("up", "--detach")
    assert (again.status, again.err.count("\n")) == (4, 1)
    assert "freecloud down" in again.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = Daemon("other", folder / "other-home")
        named = other.up("--listen", f"127.0.0.1:{port}")
    assert named.status == 1
    assert str(port) in named.err
    assert named.err.count("\n") == 1
    for words, status in (
        (["apps", "show", "nothing"], 3),
        (["nodes", "show", "nobody"], 3),
        (["apps", "scale", "nothing", "--replicas", "2"], 3),
        (["apps", "scale", "nothing", "--replicas", "many"], 2),
    ):
        done = node.run(*words)
        assert done.status == status, (words, done)
        assert done.err.count("\n") == 1
        assert "Traceback" not in done.err


WRONG_MANIFESTS = {
    "name: [": 1,
    "command: x": 1,
    "name: Web\nsource: .\ncommand: x": 1,
    "name: web\nsource: .\ncommand: x\nreplicas: many": 4,
    "name: web\nsource: .\ncommand: x\nreplicas: 100000": 4,
    "name: web\nsource: .\ncommand: x\ncolour: red": 4,
    "name: web\nname: web\nsource: .\ncommand: x": 2,
    "name: web\nsource: .\ncommand: x\nresources: {memory: lots}": 4,
    "name: web\nsource: .\ncommand: x\nhealth: {interval: soon}": 4,
    "name: web\nsource: .\ncommand: x\nruntime: cobol": 4,
    "name: web\nsource: .\ncommand: x\nenv: [a]": 4,
    "- web": 1,
}


def test_a_wrong_manifest_is_told_with_its_line(tmp_path: Path, mesh: Cluster) -> None:
    (node,) = mesh.start(1)
    path = tmp_path / "app.yaml"
    for text, line in WRONG_MANIFESTS.items():
        path.write_text(text)
        done = node.run("deploy", "--manifest", str(path))
        assert done.status == 2, text
        assert f"{path}:{line}:" in done.err, text
        assert "Traceback" not in done.err


def test_status_into_a_pipe_has_no_colours_and_json_is_one_document(mesh: Cluster) -> None:
    (node,) = mesh.start(1)
    done = node.run("status")
    assert "\x1b" not in done.out
    assert node.run("status", "--json").json["quorum"]["has_quorum"]
