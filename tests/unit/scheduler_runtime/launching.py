"""Real apps for the tests: small Python programs that report to a beacon, so that tests wait on events alone.

An app in a sandbox reaches no beacon on this machine: it speaks through a FIFO in its own folder.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from scheduler.runtimes.procfs import boottime
from scheduler.runtimes.runtime import Launch, ResourceLimits
from scheduler.runtimes.sandbox import Sandbox, sandbox_without_rung
from scheduler.runtimes.sandbox_probe import interpreters

PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))

PRELUDE = """
import json, os, signal, socket, sys, time
beacon = socket.create_connection(("127.0.0.1", int(os.environ["BEACON"])))
def tell(**facts):
    beacon.sendall(json.dumps(facts).encode() + b"\\n")
"""
"""The connection stays open as long as the process, or a child that inherited it, lives: its end is their death."""

MOUTH = "mouth"
SPOKEN = f"""
import json, os, signal, socket, sys, time
mouth = open("{MOUTH}", "wb", 0)
def tell(**facts):
    mouth.write(json.dumps(facts).encode() + b"\\n")
"""


@dataclass
class Mouth:
    """The reading end of a launch's FIFO: like a connection, at its end when all that had it open are dead."""

    fd: int

    async def receive_some(self) -> bytes:
        await trio.lowlevel.wait_readable(self.fd)
        return os.read(self.fd, 64 * 1024)


@dataclass
class Caller:
    """One process that called the beacon."""

    stream: trio.SocketStream | Mouth
    received: bytes = b""

    async def hear(self) -> dict[str, Any]:
        """The next thing that it tells."""
        while b"\n" not in self.received:
            chunk = await self.stream.receive_some()
            assert chunk, "the app ended without a word"
            self.received += chunk
        line, _, self.received = self.received.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    async def wait_dead(self) -> None:
        """Until every process that holds the connection is dead."""
        try:
            while await self.stream.receive_some():
                pass
        except trio.BrokenResourceError:
            return


@dataclass
class Beacon:
    """A listener that apps call when something has happened."""

    port: int
    callers: trio.MemoryReceiveChannel[Caller]
    open_streams: list[trio.SocketStream] = field(default_factory=list)

    async def caller(self) -> Caller:
        return await self.callers.receive()


@asynccontextmanager
async def open_beacon() -> AsyncIterator[Beacon]:
    send, receive = trio.open_memory_channel[Caller](64)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    beacon = Beacon(listener.socket.getsockname()[1], receive)
    async with trio.open_nursery() as nursery, listener:

        async def take() -> None:
            while True:
                stream = await listener.accept()
                beacon.open_streams.append(stream)
                await send.send(Caller(stream))

        nursery.start_soon(take)
        yield beacon
        nursery.cancel_scope.cancel()
    for stream in beacon.open_streams:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def hear(launch: Launch) -> AsyncIterator[Caller]:
    """What this launch, made with `spoken`, will tell."""
    fd = os.open(launch.work / MOUTH, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield Caller(Mouth(fd))
    finally:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


def bare_sandbox() -> Sandbox:
    """No protection: for tests of everything but the sandbox."""
    return sandbox_without_rung("test", interpreters()[0], os.path.realpath(sys.executable))


def launch_python(
    folder: Path, code: str, *, beacon: Beacon | None = None, spoken: bool = False, **changes: Any
) -> Launch:
    """A launch of this code; `folder` gets `work`, `run` and `app.log`."""
    for name in ("work", "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **changes.pop("environment", {})}
    if beacon is not None:
        environment["BEACON"] = str(beacon.port)
        code = PRELUDE + code
    if spoken:
        code = SPOKEN + code
        if not (folder / "work" / MOUTH).exists():
            os.mkfifo(folder / "work" / MOUTH)
    values: dict[str, Any] = {
        "replica_id": "web-1",
        "group": "web-1",
        "run_id": secrets.token_hex(8),
        "command": (PYTHON, "-u", "-c", code),
        "environment": environment,
        "work": folder / "work",
        "run_folder": folder / "run",
        "log": folder / "app.log",
        "readable": (),
        "writable": (),
        "secrets_folder": None,
        "limits": ResourceLimits(cpu=1.0, memory_bytes=256 << 20, disk_bytes=64 << 20),
        "exclusive": False,
        "renewal_limit_s": 60.0,
        "entitled": boottime(),
    }
    return Launch(**{**values, **changes})


def soon() -> float:
    """A deadline that no start comes near."""
    return trio.current_time() + 20
