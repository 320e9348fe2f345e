"""What goes wrong under a steady load, and what is to be said of it afterwards (line 6, rule A4).

One round: a rolling update, a scale-down, and the death of a whole node that has a replica, the leader where it has
one. Requests go by nodes that survive; the one to be killed is left out just before, and stays out.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Cluster, Daemon, wait_until
from tests.e2e.steady_client import Shot, SteadyClient, Wish

APP = "steady"
MANIFEST = Path(__file__).parent / "steady_app" / "app.yaml"

GETS = (Wish(),)
MIXED = (
    Wish(),
    Wish(path="/slow"),
    Wish(),
    Wish("POST", "/slow", b"once"),
    Wish(),
    Wish(path="/stream"),
)
"""Answers that take long enough to be struck half-way, and requests that must not be done twice."""

SLOW = (Wish(path="/slow"),)
"""Some of them under way to every replica at any moment, over kept connections and fresh ones."""

REPLICAS = 3
FEWER = 2
LOG_LINES_MAX = 10_000


@dataclass(slots=True)
class Outcome:
    """Both sides' accounts of the same requests."""

    shots: list[Shot]
    requests: Counter[str] = field(default_factory=Counter)  # by node: what its relay counted
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)  # by request id: what the relays' logs hold
    retries: int = 0
    killed: set[str] = field(default_factory=set)
    took: Counter[str] = field(default_factory=Counter)  # by request id of a POST: how often the app took it

    def unserved(self) -> list[Shot]:
        return [shot for shot in self.shots if not shot.served]

    def broken_promises(self) -> list[Shot]:
        """GETs that failed though no response had begun: there must be none."""
        return [shot for shot in self.unserved() if shot.wish.method == "GET" and not shot.torn]

    def gracelessly_ended(self) -> list[Shot]:
        """Requests of any kind that failed at a replica whose node lived on: who is asked to end finishes first."""
        return [
            shot for shot in self.unserved() if self.failed.get(shot.request_id, {}).get("node") not in self.killed
        ]

    def unaccounted(self) -> set[str]:
        """Failures in one account and not in the other."""
        return {shot.request_id for shot in self.unserved()} ^ set(self.failed)


class Storm:
    """Rounds of trouble for an app under load.

    Args:
        client: Sends by the mesh's nodes; this takes those that are killed out of it.
        pause: Requests between one trouble and the next.
    """

    def __init__(self, mesh: Cluster, client: SteadyClient, pause: int) -> None:
        self._mesh = mesh
        self._client = client
        self._pause = pause
        self.killed: list[Daemon] = []
        self._told = Outcome([])

    @property
    def survivors(self) -> list[Daemon]:
        return [node for node in self._mesh.nodes if node not in self.killed]

    def round(self) -> None:
        self._client.go_on(self._pause)
        run(self.survivors[0], "deploy", "--manifest", str(MANIFEST))
        self._client.go_on(self._pause)
        self.scale(FEWER)
        self._client.go_on(self._pause)
        self.kill_a_holder()
        self._client.go_on(self._pause)

    def silent_round(self) -> None:
        """A power cut or a dead wire tells nobody: connections stay open and nothing comes over them any more."""
        self._client.go_on(self._pause)
        with self.one_silent() as silent:
            watcher = self.survivors[0]
            wait_until("healthy elsewhere", lambda: silent.name not in (healthy_on(watcher) or [silent.name]))
            self._client.go_on(self._pause)
        self._client.go_on(self._pause)

    def scale(self, replicas: int) -> None:
        """By another node than the one that deployed."""
        node = self.survivors[-1]
        run(node, "apps", "scale", APP, "--replicas", str(replicas))
        wait_until(f"{replicas} healthy replicas", lambda: len(healthy_on(node)) == replicas)

    def kill_a_holder(self) -> None:
        """Destroy a node while its replica answers others, and wait until that replica is elsewhere."""
        victim, holders = self._victim()
        victim.destroy()
        watcher = self.survivors[0]
        wait_until(
            "healthy elsewhere",
            lambda: len(healthy_on(watcher)) == len(holders) and victim.name not in healthy_on(watcher),
        )

    @contextmanager
    def one_silent(self) -> Iterator[Daemon]:
        """Stop a node where it stands, while its replica answers others; it goes on afterwards."""
        victim, _ = self._victim()
        pid = victim.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield victim
        finally:
            os.kill(pid, signal.SIGCONT)

    def _victim(self) -> tuple[Daemon, list[str]]:
        """A node whose replica is answering requests of others, and by which the client sends nothing any more; and
        all that have a replica."""
        asked = self.survivors[0]
        holders = wait_until("all replicas to be healthy", lambda: healthy_on(asked))
        leader = self._mesh.leader()
        victim = leader if leader.name in holders and leader in self.survivors else self._holder(holders)
        self._client.avoid(victim)
        if victim not in self.killed:
            self._take_account(victim)  # of what it has relayed so far: it keeps that in memory
        self.killed.append(victim)
        wait_until(f"{victim.name} to answer others", lambda: any(asks(node, victim) for node in self.survivors))
        return victim, holders

    def _holder(self, holders: Sequence[str]) -> Daemon:
        return next(node for node in self._mesh.nodes if node.name in holders and node.pid is not None)

    def bring_back(self) -> None:
        """Start the one that was killed last again."""
        done = self.killed[-1].up()  # its ports may have been taken by others meanwhile
        assert done.status == 0, done.err
        count = len(self._mesh.nodes)
        wait_until("all see all", lambda: all(Cluster.alive(node) == count for node in self._mesh.nodes))

    def outcome(self) -> Outcome:
        """Stop the load and gather what each side says; the dead must be back, for what their replicas wrote."""
        told = self._told
        told.shots = list(self._client.stop())
        told.killed = {node.name for node in self.killed}
        for node in self.survivors:
            self._take_account(node)
        log = run(self.survivors[0], "apps", "logs", APP, "--lines", str(LOG_LINES_MAX), "--json")
        for line in log.splitlines():
            words = line.partition("took POST ")[2].split('"')[0].split("\\")
            told.took.update(words[:1] if words[0] else [])
        return told

    def _take_account(self, node: Daemon) -> None:
        answer = node.client.get("/v1/ingress")
        self._told.requests[node.name] = answer["requests"]
        self._told.retries += answer["retries"]
        self._told.failed |= {one["request_id"]: one for one in answer["failed"]}


def copy_with(folder: Path, replicas: int) -> str:
    """The manifest of a copy of the app with another number of replicas."""
    shutil.copytree(MANIFEST.parent, folder / APP)
    path = folder / APP / MANIFEST.name
    path.write_text(MANIFEST.read_text().replace(f"replicas: {REPLICAS}", f"replicas: {replicas}"))
    return str(path)


def healthy_on(node: Daemon) -> list[str]:
    """The nodes of healthy replicas, as this node sees it; empty while any is on its way in or out."""
    told = node.client.get(f"/v1/apps/{APP}")
    holders = [str(replica["node"]) for replica in told["placed"] if replica["health"] == "healthy"]
    return holders if len(holders) == len(told["placed"]) == told["replicas"] else []


def asks(node: Daemon, other: Daemon) -> bool:
    """Has this node a request under way to a replica of the other?"""
    replicas = node.client.get("/v1/ingress")["replicas"]
    return any(each["in_flight"] and each["node"] == other.name for each in replicas)


def run(node: Daemon, *words: str) -> str:
    """A command that must succeed."""
    done = node.run(*words)
    assert done.status == 0, f"{' '.join(words)} on {node.name}: {done.err}"
    return done.out
