"""`freecloud demo`: five daemons in five homes on this machine; deploy, kill the leader, see it go on."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import output
from daemon.client import Client
from daemon.home import Home, daemon_pid
from mesh.errors import FailedError, FreecloudError, UsageError

NODES = ("alpha", "bravo", "charlie", "delta", "echo")
ZONES = ("attic", "attic", "cellar", "cellar", "office")
APP = "whereami"
STEP_TIMEOUT_S = 60.0
POLL_S = 0.2
REQUESTS_A_SECOND = 20


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--keep", action="store_true", help="leave it running, and say how to look and how to stop it")
    parser.add_argument("--folder", metavar="DIR", help="where the five homes go (a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print the final table as JSON")
    parser.epilog = "example:\n  freecloud demo --keep"
    parser.set_defaults(run=run)


@dataclass(slots=True)
class Node:
    """One of the five: its home, and how it is asked."""

    name: str
    home: Path
    node_id: str = ""
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def client(self) -> Client:
        return Client(Home(self.home).socket)


def run(options: argparse.Namespace) -> int:
    folder = Path(options.folder) if options.folder else Path(tempfile.mkdtemp(prefix="freecloud-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="choose another --folder")
    # An app's own user must be able to pass through to its replica's folder.
    folder.chmod(0o711)
    nodes = [Node(name, folder / name) for name in NODES]
    kept = False
    try:
        document = play(nodes)
        if options.json:
            output.result(document)
        else:
            _table(document)
        if options.keep:
            kept = True
            _how_to_look(nodes, folder)
        return 0
    finally:
        if not kept:
            stop_all(nodes)
            shutil.rmtree(folder, ignore_errors=True)


def play(nodes: list[Node]) -> dict[str, Any]:
    """The whole story; returns what the final table shows, every cell read from the API after the kill."""
    for number, node in enumerate(nodes):
        start(node, ZONES[number], nodes[0] if number else None)
        output.note(f"{'joined' if number else 'started'}  {node.name.ljust(8)} {node.addresses['mesh']}")
    _wait("five nodes alive", lambda: _alive(nodes[0]) == len(nodes))
    _deploy(nodes)
    answers = {node.name: get(node) for node in nodes}
    output.note("opened through every node: " + ", ".join(f"{name} → {answer}" for name, answer in answers.items()))
    leader = _leader_with_replica(nodes)
    load = Load([node for node in nodes if node is not leader])
    with load:
        pid = daemon_pid(Home(leader.home))
        if pid is None:
            raise FailedError(f"{leader.name} is not running")
        output.note(f"kill -9 the leader, {leader.name} (pid {pid})")
        kill_tree(leader, pid)
        killed_at = time.monotonic()
        rest = [node for node in nodes if node is not leader]
        new_leader = _wait("a new leader", lambda: _new_leader(rest, leader.name))
        leader_s = time.monotonic() - killed_at
        output.note(f"new leader: {new_leader} after {leader_s:.1f} s")
        _wait("three healthy replicas on living nodes", lambda: _moved_away(rest[0], leader.name))
        moved_s = time.monotonic() - killed_at
        output.note(f"the replica that was on {leader.name} runs elsewhere, healthy after {moved_s:.1f} s")
    output.note(load.summary())
    return _document(rest, leader, load, leader_s, moved_s)


def start(node: Node, zone: str, via: Node | None) -> None:
    """Start one daemon, the first as a mesh of its own, the others with a fresh token each."""
    command = [sys.executable, "-m", "cli.main"]
    flags = ["--home", str(node.home), "--name", node.name, "--zone", zone, "--detach", "--json"]
    token = ""
    if via is None:
        command += ["up", *flags]
    else:
        answer = via.client.post("/v1/invites", {"uses": 1, "expires_ms": 600_000, "labels": []})
        token = answer["token"]
        command += ["join", "-", *flags]
    done = subprocess.run(command, input=token + "\n", capture_output=True, text=True, timeout=STEP_TIMEOUT_S)
    if done.returncode != 0:
        raise FailedError(f"{node.name} did not start", why=done.stderr.strip())
    told = json.loads(done.stdout)
    node.node_id, node.addresses = told["id"], told["addresses"]


def get(node: Node) -> str:
    """Open the app through one node's ingress; returns the replica that answered."""
    host, _, port = node.addresses["ingress"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/where", headers={"Host": f"{APP}.localhost:{port}"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise FailedError(f"{node.name} answered {response.status}", why=content[:200].decode(errors="replace"))
        return str(json.loads(content)["replica"])
    except (OSError, http.client.HTTPException) as error:
        raise FailedError(f"no answer through {node.name}", why=str(error)) from error
    finally:
        connection.close()


class Load:
    """Asks every surviving node in turn, some twenty times a second, retrying nothing, and counts what came."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.by_replica: Counter[str] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._end.set()
        self._thread.join(timeout=10)

    def _ask(self) -> None:
        turn = 0
        while not self._end.wait(1 / REQUESTS_A_SECOND):
            node = self._nodes[turn % len(self._nodes)]
            turn += 1
            try:
                self.by_replica[get(node)] += 1
            except FreecloudError as error:
                self.failures.append(str(error))

    def summary(self) -> str:
        total = sum(self.by_replica.values())
        text = f"meanwhile {total + len(self.failures)} requests through the other nodes: {len(self.failures)} failed"
        return text + (f" (first: {self.failures[0]})" if self.failures else "")


def kill_tree(node: Node, pid: int) -> None:
    """What a power cut of that machine would be: the daemon and everything that its home keeps running."""
    pids = [pid]
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in (pid, os.getpid()):
            continue
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if str(node.home).encode() in words:
            pids.append(int(folder.name))
    for victim in pids:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended meanwhile


def stop_all(nodes: list[Node]) -> None:
    """End whatever still runs; the homes are thrown away, so nothing needs to move."""
    for node in nodes:
        pid = daemon_pid(Home(node.home)) if node.home.exists() else None
        if pid is not None:
            kill_tree(node, pid)
    for node in nodes:
        if node.node_id:
            remove_groups(node.node_id)


def remove_groups(node_id: str) -> None:
    """The control groups of a node whose processes were all killed: a real power cut would have taken them, too."""
    end = time.monotonic() + STEP_TIMEOUT_S
    while time.monotonic() < end:
        groups = [place for place, _, _ in os.walk("/sys/fs/cgroup", topdown=False) if f"/freecloud-{node_id}" in place]
        if not groups:
            return
        for group in groups:
            with contextlib.suppress(OSError):  # its last process is still on its way out
                Path(group).rmdir()
        time.sleep(POLL_S / 10)


def _deploy(nodes: list[Node]) -> None:
    manifest = Path(__file__).resolve().parent.parent / "examples" / APP / "app.yaml"
    command = [sys.executable, "-m", "cli.main", "deploy", "--manifest", str(manifest), "--home", str(nodes[0].home)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_TIMEOUT_S * 2)
    if done.returncode != 0:
        raise FailedError(f"{APP} was not deployed", why=done.stderr.strip())
    output.note(f"deployed {APP}, three replicas healthy after {time.monotonic() - began:.1f} s")


def _wait(what: str, reached: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true; this program sees the mesh from outside, by its API alone."""
    limit = time.monotonic() + STEP_TIMEOUT_S
    last = ""
    while time.monotonic() < limit:
        try:
            if answer := reached():
                return answer
        except FreecloudError as error:
            last = str(error)
        time.sleep(POLL_S)
    raise FailedError(f"waited {STEP_TIMEOUT_S:.0f} s for {what}", why=last)


def _alive(node: Node) -> int:
    rows = node.client.get("/v1/nodes")["nodes"]
    return sum(row["state"] == "alive" and bool(row["ingress"]) for row in rows)


def _leader_with_replica(nodes: list[Node]) -> Node:
    """The leader, with a replica on it, so that its death moves one.

    Where placement chose three others, two of them are drained for a moment: the replica moves to the one node that
    has none, which is the leader. Draining is what an owner does before switching a machine off.
    """
    client = nodes[0].client
    name = client.get("/v1/status")["quorum"]["leader"]
    leader = next(node for node in nodes if node.name == name)
    holders = _holders(nodes[0])
    if name in holders:
        return leader
    spare = next(node.name for node in nodes if node.name not in holders and node.name != name)
    drained = [spare, holders[0]]
    for other in drained:
        client.post(f"/v1/nodes/{other}/drain", {"on": True})
    output.note(f"draining {' and '.join(drained)}: a replica moves to {name}")
    _wait(f"a replica on {name}", lambda: name in _settled_holders(nodes[0]))
    for other in drained:
        client.post(f"/v1/nodes/{other}/drain", {"on": False})
    return leader


def _settled_holders(node: Node) -> list[str]:
    """Where the replicas are, once there are three, all healthy, and none on its way out."""
    holders = _holders(node)
    return holders if len(holders) == 3 and _healthy(node, "") == 3 else []


def _moved_away(node: Node, dead: str) -> bool:
    holders = _settled_holders(node)
    return bool(holders) and dead not in holders


def _holders(node: Node) -> list[str]:
    return [str(replica["node"]) for replica in node.client.get(f"/v1/apps/{APP}")["placed"]]


def _new_leader(nodes: list[Node], old: str) -> str:
    leaders = {node.client.get("/v1/status")["quorum"]["leader"] for node in nodes}
    if len(leaders) == 1 and (leader := leaders.pop()) not in (None, old):
        return str(leader)
    return ""


def _healthy(node: Node, dead: str) -> int:
    placed = node.client.get(f"/v1/apps/{APP}")["placed"]
    return sum(replica["health"] == "healthy" and replica["node"] != dead for replica in placed)


def _document(nodes: list[Node], dead: Node, load: Load, leader_s: float, moved_s: float) -> dict[str, Any]:
    rows = nodes[0].client.get("/v1/nodes")["nodes"]
    placed = nodes[0].client.get(f"/v1/apps/{APP}")["placed"]
    for row in rows:
        row["runs"] = [replica["id"] for replica in placed if replica["node"] == row["name"]]
        row["answers"] = sum(load.by_replica[replica] for replica in row["runs"])
    return {
        "killed": dead.name,
        "nodes": rows,
        "new_leader_after_s": round(leader_s, 2),
        "replica_moved_after_s": round(moved_s, 2),
        "requests": sum(load.by_replica.values()) + len(load.failures),
        "failed": len(load.failures),
    }


def _table(document: dict[str, Any]) -> None:
    rows = [
        [row["name"], row["state"], row["role"], row["zone"], ", ".join(row["runs"]) or "-", str(row["answers"])]
        for row in document["nodes"]
    ]
    output.table(["node", "state", "role", "zone", "runs", "answers"], rows)


def _how_to_look(nodes: list[Node], folder: Path) -> None:
    living = next(node for node in nodes if daemon_pid(Home(node.home)) is not None)
    port = living.addresses["ingress"].rpartition(":")[2]
    output.note(f"\nlook:  http://{APP}.localhost:{port}/")
    command = sys.argv[0] if Path(sys.argv[0]).name == "freecloud" else "freecloud"
    output.note(f"ask:   {command} status --home {living.home}")
    output.note(f"stop:  for home in {folder}/*; do {command} down --now --home $home; done")
