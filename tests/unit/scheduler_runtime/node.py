"""A node's runner over a real ledger state, with sources from memory; everything else is the real thing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from consensus.ledger_entries import Assign, Done, PutRelease, RemoveApp, Unassign
from consensus.ledger_state import LedgerState
from consensus.records import Release
from gossip.record import ReplicaHealth, ReplicaReport
from mesh.errors import MissingError, NoQuorumError
from scheduler.manifest import encode_manifest, parse
from scheduler.runner import Runner, RunnerConfig, folders_under
from scheduler.runtimes.process import ProcessRuntime
from scheduler.runtimes.sandbox import Sandbox
from tests.unit.consensus.test_ledger_state import Script
from tests.unit.scheduler_runtime.launching import bare_sandbox

SERVER = """
import http.server, json, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 500 if os.path.exists("sick") else 200
        self.send_response(status)
        self.end_headers()
        if self.path == "/env":
            self.wfile.write(json.dumps(dict(os.environ)).encode())
        elif self.path == "/crash":
            os._exit(9)
        elif self.path == "/sick":
            open("sick", "w").close()
        else:
            self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *arguments):
        print("served", self.path, flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

MANIFEST = """
name: web
command: python app.py
health: {path: /, interval: 100ms, timeout: 5s, unhealthy_after: 2}
restart: {backoff: 100ms..1s}
"""


class Sources:
    """Bundles by name, from memory."""

    def __init__(self) -> None:
        self.bundles: dict[str, Mapping[str, str]] = {}

    async def unpack(self, bundle: str, folder: Path, *, deadline: float) -> None:
        if bundle not in self.bundles:
            raise MissingError(f"nobody has the bundle {bundle}")
        folder.mkdir(mode=0o700)
        for name, text in self.bundles[bundle].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


class LocalLedger:
    """The real state, changed by real entries, without replication."""

    def __init__(self) -> None:
        self.script = Script()
        self.me = self.script.founder
        self.has_quorum = True
        self._watchers: set[trio.MemorySendChannel[Any]] = set()

    @property
    def state(self) -> LedgerState:
        return self.script.state

    def say(self, entry: Any) -> str:
        result = self.script.say(entry)
        assert isinstance(result, Done), result
        for watcher in self._watchers:
            try:
                watcher.send_nowait(self.state.applied)
            except trio.WouldBlock:
                continue
        return result.detail

    def deploy(self, manifest: str, bundle: str) -> int:
        parsed = parse(manifest)
        newest = max((number for app, number in self.state.releases if app == parsed.name), default=0)
        release = Release(parsed.name, newest + 1, bundle, 1, encode_manifest(parsed), manifest, 0, ())
        return int(self.say(PutRelease(release, parsed.replicas)))

    def assign(self, app: str, release: int) -> str:
        number = self.state.apps[app].next_replica
        return self.say(Assign(app, release, self.me.node_id, "test", number))

    def unassign(self, replica_id: str) -> None:
        self.say(Unassign(replica_id, self.state.assignments[replica_id].index, "test"))

    def remove(self, app: str) -> None:
        self.say(RemoveApp(app))

    def age(self) -> float:
        return 0.0 if self.has_quorum else 1e9

    async def read_barrier(self, *, deadline: float) -> int:
        if not self.has_quorum:
            raise NoQuorumError("no quorum")
        return self.state.applied

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[Any]]:
        send, receive = trio.open_memory_channel[Any](1)
        self._watchers.add(send)
        try:
            yield receive
        finally:
            self._watchers.discard(send)


class Node:
    """One daemon's worth of runner; make another one on the same home to restart it."""

    def __init__(
        self, home: Path, ledger: LocalLedger, sources: Sources, *, sandbox: Sandbox | None = None, **secrets: str
    ) -> None:
        self.home = home
        self.ledger = ledger
        self.sandbox = sandbox or bare_sandbox()
        self._secrets = secrets
        self._changed = trio.Event()
        self.runner = Runner(
            RunnerConfig(ledger.me.node_id, "node1", "zone1"),
            ledger=ledger,
            bundles=sources,
            runtime=ProcessRuntime(self.sandbox),
            sandbox=self.sandbox,
            folders=folders_under(home),
            open_secrets=self._open_secrets,
            on_change=self._note,
            rng=random.Random(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.runner.run)
            yield self
            nursery.cancel_scope.cancel()

    async def until(self, condition: Callable[[tuple[ReplicaReport, ...]], bool]) -> tuple[ReplicaReport, ...]:
        """Wait for reports that meet the condition."""
        while True:
            changed = self._changed
            reports = self.runner.reports()
            if condition(reports):
                return reports
            await changed.wait()

    async def until_healthy(self, replica_id: str, *, restarts: int | None = None) -> ReplicaReport:
        def wanted(reports: tuple[ReplicaReport, ...]) -> bool:
            return any(
                report.replica_id == replica_id
                and report.health is ReplicaHealth.HEALTHY
                and restarts in (None, report.restarts)
                for report in reports
            )

        reports = await self.until(wanted)
        return next(report for report in reports if report.replica_id == replica_id)

    async def until_gone(self) -> None:
        await self.until(lambda reports: not reports)

    async def _open_secrets(self, names: tuple[str, ...]) -> Mapping[str, str]:
        return {name: self._secrets[name] for name in names}

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def get(port: int, path: str) -> bytes:
    """The body of a GET; the app closes the connection after it."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        received = b""
        while chunk := await stream.receive_some():
            received += chunk
    return received.partition(b"\r\n\r\n")[2]
