"""Real daemons in real homes, driven as a user drives them: by the command and by the API."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cli.demo import Node as DemoNode
from cli.demo import kill_tree
from daemon.client import Client
from daemon.home import Home, daemon_pid
from mesh.errors import FreecloudError
from tests.e2e.leftovers import node_id, remove_groups

T = TypeVar("T")

WAIT_S = 60.0
"""Tenfold what any single step takes: an event under a deadline, never a measurement."""

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Done:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def freecloud(
    *words: str,
    stdin: str = "",
    home: Path | None = None,
    timeout: float = 120.0,
    prefix: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
) -> Done:
    """Run the command as a program of its own.

    Args:
        prefix: What runs it, where it is not to run here: a tool that enters another machine's network.
        extra: Variables of its environment, and so of the daemon that it starts.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FREECLOUD_")}
    if home is not None:
        environment["FREECLOUD_HOME"] = str(home)
    environment |= extra or {}
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "cli.main", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(slots=True)
class Daemon:
    """One node of the cluster."""

    name: str
    home: Path
    addresses: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def client(self) -> Client:
        return Client(Home(self.home).socket)

    @property
    def pid(self) -> int | None:
        return daemon_pid(Home(self.home))

    def run(self, *words: str, stdin: str = "") -> Done:
        return freecloud(*words, stdin=stdin, home=self.home, prefix=self.prefix, extra=self.environment)

    def up(self, *flags: str) -> Done:
        done = self.run("up", "--name", self.name, "--detach", "--json", *flags)
        if done.status == 0:
            self.addresses = done.json["addresses"]
        return done

    def join(self, token: str, *flags: str) -> Done:
        done = self.run("join", "-", "--name", self.name, "--detach", "--json", *flags, stdin=token + "\n")
        if done.status == 0:
            self.addresses = done.json["addresses"]
        return done

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/v1/status")
        return answer

    def kill_daemon(self) -> None:
        """kill -9 of the daemon alone; its shims and apps stay."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until("the daemon is gone", lambda: self.pid is None)

    def destroy(self) -> None:
        """What a power cut would leave: nothing of this node runs."""
        pid = self.pid
        known = node_id(self.home)
        if pid is not None:
            kill_tree(DemoNode(self.name, self.home), pid)
        remove_groups(known)

    def get(self, app: str, path: str = "/", *, timeout: float = 10.0) -> tuple[int, dict[str, str], bytes]:
        """One request through this node's ingress, retrying nothing."""
        host, _, port = self.addresses["ingress"].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request("GET", path, headers={"Host": f"{app}.localhost:{port}"})
            response = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        finally:
            connection.close()


class Cluster:
    """Several daemons in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        # An app's own user must be able to pass through to its replica's folder.
        folder.chmod(0o711)
        self.nodes: list[Daemon] = []

    def start(self, count: int, *flags: str) -> list[Daemon]:
        """Start one mesh of this many nodes and wait until all of them see each other."""
        for _ in range(count):
            self.add(*flags)
        wait_until("all see all", lambda: all(self.alive(node) == count for node in self.nodes))
        return self.nodes

    def add(self, *flags: str) -> Daemon:
        """One more node: the first makes the mesh, the others join with a token of their own."""
        node = Daemon(f"n{len(self.nodes) + 1}", self._folder / f"n{len(self.nodes) + 1}")
        if not self.nodes:
            done = node.up(*flags)
        else:
            done = node.join(self.token(), *flags)
        assert done.status == 0, done.err + self._log(node)
        self.nodes.append(node)
        return node

    def token(self, uses: int = 1, expires: str = "10m") -> str:
        done = self.nodes[0].run("invite", "--uses", str(uses), "--expires", expires)
        assert done.status == 0, done.err
        return done.out.strip()

    @staticmethod
    def alive(node: Daemon) -> int:
        return sum(row["state"] == "alive" and bool(row["ingress"]) for row in node.client.get("/v1/nodes")["nodes"])

    def leader(self) -> Daemon:
        """The node that a majority of the living takes for the leader."""

        def agreed() -> Daemon | None:
            living = [node for node in self.nodes if node.pid is not None]
            named = Counter(node.status()["quorum"]["leader"] for node in living)
            for name, count in named.items():
                if count > len(living) // 2:
                    return next((node for node in living if node.name == name), None)
            return None

        return wait_until("one leader", agreed)

    def stop(self) -> None:
        for node in self.nodes:
            node.destroy()

    @staticmethod
    def _log(node: Daemon) -> str:
        path = Home(node.home).daemon_log
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


def wait_until(what: str, reached: Callable[[], T | None], limit_s: float = WAIT_S, poll_s: float = POLL_S) -> T:
    """Ask from outside, by the API, until the answer is true; fails after the limit with the last error."""
    end = time.monotonic() + limit_s
    last = ""
    while time.monotonic() < end:
        try:
            if answer := reached():
                return answer
        except (FreecloudError, OSError, AssertionError) as error:
            last = str(error)
        time.sleep(poll_s)
    raise AssertionError(f"waited {limit_s:.0f} s for: {what}. {last}")


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that is gone afterwards, whatever happened."""
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.stop()
