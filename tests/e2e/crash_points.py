"""Killing a real daemon at one system call, starting it again, and looking whether it kept what it had promised (P1).

Each scenario is something that a daemon does. `points` lists the writing calls that it makes while it does it; `strike`
does it again and kills the daemon at one of them; then it is started again, must serve, and must still have everything
that was acknowledged. The same home goes through one strike after another.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.home import Home
from mesh.errors import FreecloudError
from tests.e2e import strace
from tests.e2e.cluster import Cluster, Daemon, Done, wait_until
from tests.e2e.strace import Point, Traced

HEALTHY_S = 40.0
IMPATIENT = "tests.e2e.impatient"


@dataclass(frozen=True, slots=True)
class Struck:
    """What a strike came to."""

    scenario: str
    point: Point
    died: bool  # of the call; otherwise the daemon was done before it got there

    def __str__(self) -> str:
        return f"{self.scenario}: {self.point}{'' if self.died else ' (not reached)'}"


class Kept:
    """What a node acknowledged: it must have it for ever."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.tokens: set[str] = set()
        self._number = 0

    def add(self, node: Daemon, value: str = "v" * 64) -> None:
        """One more secret and one more token; an error goes to the caller, and what was refused is not kept."""
        self._number += 1
        name = f"S{self._number}"
        node.client.call("PUT", f"/v1/secrets/{name}", body={"value": value})
        self.secrets.add(name)
        wanted = {"name": name, "scopes": ["read"], "expires_ms": 3_600_000}
        self.tokens.add(str(node.client.post("/v1/tokens", wanted)["id"]))

    def add_until_it_dies(self, node: Daemon, times: int, value: str = "v" * 64) -> None:
        for _ in range(times):
            try:
                self.add(node, value)
            except FreecloudError:
                return

    def all_in(self, node: Daemon) -> bool:
        """Whether it has everything; for waiting, the reason goes to whoever waits."""
        self.check(node)
        return True

    def check(self, node: Daemon) -> None:
        """Everything is in this node's copy."""
        found = {str(secret["name"]) for secret in node.client.get("/v1/secrets")["secrets"]}
        tokens = {str(token["id"]) for token in node.client.get("/v1/tokens")["tokens"]}
        assert self.secrets <= found, f"lost: {sorted(self.secrets - found)}"
        assert self.tokens <= tokens, f"lost: {sorted(self.tokens - tokens)}"


class Scenario:
    """Something that a daemon does, on one node of its own."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(folder)
        self.kept = Kept()

    def points(self) -> list[Point]:
        """The writing calls of one run without a fault."""
        raise NotImplementedError

    def strike(self, point: Point) -> Struck:
        """Do it, be killed, come back, and have everything."""
        raise NotImplementedError

    def stop(self) -> None:
        """Nothing of it runs any more, also not what its dead daemons left to itself."""
        self.cluster.stop()
        for pid in strace.named(str(self.folder)):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, signal.SIGKILL)

    def _struck(self, point: Point, traced: Traced, node: Daemon) -> Struck:
        """Whatever happened, nothing of the daemon runs from here on."""
        died = _mesh_id(node) is None
        if died:
            wait_until("it is gone", lambda: node.pid is None)
        node.kill_daemon()
        strace.release(traced)
        return Struck(self.name, point, died)

    def _serves(self, node: Daemon) -> None:
        """It decides again, and has what it promised."""
        wait_until(f"{node.name} has a quorum", lambda: node.status()["quorum"]["has_quorum"])
        self.kept.check(node)
        self.kept.add(node)


class FirstStart(Scenario):
    """`freecloud up` in an empty home."""

    name = "first start"

    def points(self) -> list[Point]:
        home, record = self.folder / "seen", self.folder / "first.trace"
        traced = strace.start(strace.watch(), home, "up", "--name", "n0", record=record)
        assert traced.wait_ready(), traced.lines
        Daemon("n0", home).destroy()
        strace.release(traced)
        return strace.points_in(record, home)

    def strike(self, point: Point) -> Struck:
        node = Daemon(f"n{len(self.cluster.nodes) + 1}", self.folder / f"n{len(self.cluster.nodes) + 1}")
        self.cluster.nodes.append(node)
        traced = strace.start(point.kill(), node.home, "up", "--name", node.name)
        told_ready = traced.wait_ready()
        mesh = _mesh_id(node) if told_ready else None
        struck = self._struck(point, traced, node)
        _up(node)
        assert mesh in (None, _mesh_id(node)), "it said that it was ready, and founded another mesh afterwards"
        self.kept = Kept()
        self._serves(node)
        node.kill_daemon()
        _up(node)
        self._serves(node)
        node.destroy()
        return struck


class Restart(Scenario):
    """`freecloud up` in a home with a past."""

    name = "restart"

    def points(self) -> list[Point]:
        (node,) = self.cluster.start(1)
        self.kept.add_until_it_dies(node, 3)
        node.kill_daemon()
        record = self.folder / "restart.trace"
        traced = strace.start(strace.watch(), node.home, "up", "--name", node.name, record=record)
        assert traced.wait_ready(), traced.lines
        node.kill_daemon()
        strace.release(traced)
        return strace.points_in(record, node.home)

    def strike(self, point: Point) -> Struck:
        (node,) = self.cluster.nodes
        node.kill_daemon()
        traced = strace.start(point.kill(), node.home, "up", "--name", node.name)
        if traced.wait_ready():
            self.kept.add_until_it_dies(node, 1)
        struck = self._struck(point, traced, node)
        _up(node)
        self._serves(node)
        return struck


class Join(Scenario):
    """`freecloud join` with a token of one use, by the second node of a mesh: both will vote."""

    name = "join"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._number = 0

    def points(self) -> list[Point]:
        record = self.folder / "join.trace"
        joiner = self._founded()
        traced = self._join(joiner, self.cluster.token(), strace.watch(), record)
        assert traced.wait_ready(), traced.lines
        wait_until("the joiner is alive", lambda: self.cluster.alive(joiner) == 2)
        joiner.destroy()
        strace.release(traced)
        self.cluster.stop()
        return strace.points_in(record, joiner.home)

    def strike(self, point: Point) -> Struck:
        joiner = self._founded()
        founder = self.cluster.nodes[0]
        token = self.cluster.token()
        traced = self._join(joiner, token, point.kill(), None)
        traced.wait_ready()
        struck = self._struck(point, traced, joiner)
        done = joiner.join(token)
        assert done.status == 0, f"{struck}: {done.err}"
        wait_until("both are alive", lambda: self.cluster.alive(founder) == self.cluster.alive(joiner) == 2)
        self._serves(joiner)
        stranger = Daemon("stranger", self.cluster.nodes[0].home.parent / "stranger")
        refused = stranger.join(token)
        assert (refused.status, "used up" in refused.err) == (4, True), f"{struck}: {refused}"
        assert len(founder.client.get("/v1/nodes")["nodes"]) == 2
        self.kept.check(founder)
        self.cluster.stop()
        return struck

    def _founded(self) -> Daemon:
        """A new mesh of one node, and who is to join it."""
        self._number += 1
        folder = self.folder / f"m{self._number}"
        self.cluster = Cluster(folder)
        self.kept = Kept()
        (founder,) = self.cluster.start(1)
        self.kept.add(founder)
        joiner = Daemon("n2", folder / "n2")
        self.cluster.nodes.append(joiner)
        return joiner

    def _join(self, joiner: Daemon, token: str, options: list[str], record: Path | None) -> Traced:
        words = ("join", "-", "--name", joiner.name)
        return strace.start(options, joiner.home, *words, stdin=token + "\n", record=record)


class Deploy(Scenario):
    """`freecloud deploy` of a new release, with a secret and a token beside it."""

    name = "deploy"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._release = 0
        self._acknowledged = 0

    def points(self) -> list[Point]:
        (node,) = self.cluster.start(1)
        pid = node.pid
        assert pid is not None
        record = self.folder / "deploy.trace"
        threads = _threads(pid)
        with strace.attached(strace.watch(), pid, record=record):
            self._work(node)
            threads |= _threads(pid)
        assert self._acknowledged == 1, "the deploy without a fault was not acknowledged"
        return strace.points_in(record, node.home, threads)

    def strike(self, point: Point) -> Struck:
        (node,) = self.cluster.nodes
        pid = node.pid
        assert pid is not None
        with strace.attached(point.kill(), pid) as traced:
            self._work(node)
            struck = self._struck(point, traced, node)
        _up(node)
        self._serves(node)
        wait_until("the app runs", lambda: self._runs(node), HEALTHY_S)
        return struck

    def _work(self, node: Daemon) -> None:
        self._release += 1
        done = self._deploy(node)
        if done.status == 0:
            self._acknowledged = self._release
        self.kept.add_until_it_dies(node, 1)

    def _deploy(self, node: Daemon) -> Done:
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "release.txt").write_text(str(self._release))
        manifest = self.folder / "app.yaml"
        manifest.write_text(
            "name: web\nsource: ./source\ncommand: exec python3 -m http.server --bind 127.0.0.1 $PORT\n"
            "health: {interval: 1s}\n"
        )
        return node.run("deploy", "--manifest", str(manifest))

    def _runs(self, node: Daemon) -> bool:
        """The newest acknowledged release or a later one answers; before the first there is nothing to run."""
        if not self._acknowledged:
            return True
        status, _, body = node.get("web", "/release.txt")
        return status == 200 and int(body) >= self._acknowledged


class Compaction(Scenario):
    """Many small changes, of a daemon that takes a snapshot every few entries and cuts its log behind it."""

    name = "compaction"
    CHANGES = 12
    VALUE = "v" * 2000
    """A handful of these fill a segment."""

    def points(self) -> list[Point]:
        node = Daemon("n1", self.folder / "n1")
        self.cluster.nodes.append(node)
        traced = self._start(node)
        pid = node.pid
        assert pid is not None
        record = self.folder / "compaction.trace"
        threads = _threads(pid)
        with strace.attached(strace.watch(), pid, record=record):
            self.kept.add_until_it_dies(node, self.CHANGES, self.VALUE)
            threads |= _threads(pid)
        node.kill_daemon()
        strace.release(traced)
        text = record.read_text()
        assert ".snapshot" in text, "no snapshot was taken"
        assert "unlink" in text, "no segment was cut"
        return strace.points_in(record, node.home, threads)

    def strike(self, point: Point) -> Struck:
        (node,) = self.cluster.nodes
        before = self._start(node)
        pid = node.pid
        assert pid is not None
        with strace.attached(point.kill(), pid) as traced:
            # Its threads share the work as it comes, so the call may be one of a later round.
            self.kept.add_until_it_dies(node, 6 * self.CHANGES, self.VALUE)
            struck = self._struck(point, traced, node)
        strace.release(before)
        after = self._start(node)
        self._serves(node)
        node.kill_daemon()
        strace.release(after)
        return struck

    def _start(self, node: Daemon) -> Traced:
        started = strace.start((), node.home, f"--home={node.home}", f"--name={node.name}", module=IMPATIENT)
        assert started.wait_ready(), started.lines
        wait_until("a quorum", lambda: node.status()["quorum"]["has_quorum"])
        return started


SCENARIOS: tuple[Callable[[Path], Scenario], ...] = (FirstStart, Restart, Join, Deploy, Compaction)


def _up(node: Daemon) -> None:
    done = node.up()
    assert done.status == 0, f"{done.err} {Home(node.home).daemon_log.read_text(errors='replace')[-2000:]}"


def _mesh_id(node: Daemon) -> str | None:
    try:
        return str(node.status()["mesh"]["id"])
    except FreecloudError:
        return None  # it died of its point


def _threads(pid: int) -> set[str]:
    try:
        return {folder.name for folder in Path(f"/proc/{pid}/task").iterdir()}
    except FileNotFoundError:
        return set()  # it died of its point
