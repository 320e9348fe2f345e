"""`freecloud apps exec`: a command beside a replica, from any node.

It runs under a shim like the replica itself, in the same folder, sandbox and environment, and ends with whoever asked:
when the asker goes, when this daemon goes (after a minute, by its shim), or at the limit. It gets no input.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from mesh.errors import ExhaustedError, MissingError, UsageError
from mesh.lanes import Lane
from mesh.names import NodeId, Role
from mesh.peers import Peers
from mesh.rpc import Caller, Method, RpcServer, Shape
from scheduler.replica import Replica
from scheduler.runtimes.logs import LogPosition, LogRecord, read_on
from scheduler.runtimes.messages import RUNTIME, ExecOutput, ExecRequest, LogLine
from scheduler.runtimes.procfs import boottime
from scheduler.runtimes.runtime import RENEW_EVERY_S, Run

EXEC_S_MAX = 3600.0
EXECS_MAX = 16
ARGUMENTS_MAX, ARGUMENTS_BYTES_MAX = 256, 32 * 1024
LOOK_EVERY_S = 0.1
PIECE_BYTES_MAX = 64 * 1024

APP_EXEC = Method("app.exec", ExecRequest, ExecOutput, RUNTIME, Role.TRUSTED, Lane.BULK, Shape.STREAM)


class AppExec:
    """Runs commands beside this node's replicas, and asks other nodes for theirs.

    Args:
        find: This node's replica of a name.
        peers: To ask others.
    """

    def __init__(self, find: Callable[[str], Replica | None], peers: Peers) -> None:
        self._find = find
        self._peers = peers
        self._running = 0

    def register(self, server: RpcServer) -> None:
        server.register(APP_EXEC, self._serve)

    def run(
        self, node_id: NodeId, request: ExecRequest, *, deadline: float
    ) -> AbstractAsyncContextManager[AsyncIterator[ExecOutput]]:
        """Run on the node where the replica is; leaving the block ends the command."""
        return self._peers.stream(node_id, APP_EXEC, request, deadline=deadline)

    async def _serve(self, caller: Caller, request: ExecRequest) -> AsyncIterator[ExecOutput]:
        replica = self._find(request.replica_id)
        if replica is None:
            raise MissingError(f"{request.replica_id} does not run here")
        if not request.command or len(request.command) > ARGUMENTS_MAX:
            raise UsageError(f"a command has 1 to {ARGUMENTS_MAX} words")
        if sum(len(word.encode()) for word in request.command) > ARGUMENTS_BYTES_MAX:
            raise UsageError(f"a command has at most {ARGUMENTS_BYTES_MAX} bytes")
        if self._running >= EXECS_MAX:
            raise ExhaustedError(f"{EXECS_MAX} commands run beside this node's replicas already")
        folder = replica.folder.path / f"exec-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        self._running += 1
        run: Run | None = None
        try:
            run = await replica.run_beside(request.command, folder, folder / "output.log")
            async for piece in _follow(run, folder / "output.log"):
                yield piece
        finally:
            self._running -= 1
            with trio.CancelScope(shield=True):
                if run is not None:
                    await run.stop(0.0)
                await trio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


async def _follow(run: Run, log: Path) -> AsyncIterator[ExecOutput]:
    """What it writes, while it runs, and then how it ended; keeps it alive meanwhile."""
    position, ended = LogPosition(0, 0), False
    started = renewed = trio.current_time()
    while True:
        records, position = await trio.to_thread.run_sync(read_on, log, position, PIECE_BYTES_MAX)
        lines = _lines(records)
        if lines:
            yield ExecOutput(lines, None)
        if records:
            continue
        if ended:
            break
        now = trio.current_time()
        if now - started > EXEC_S_MAX:
            await run.stop(1.0)
        elif now - renewed > RENEW_EVERY_S:
            renewed = now
            await run.renew(boottime())
        with trio.move_on_after(LOOK_EVERY_S):
            await run.wait_exit()
            ended = True  # one more look at what it wrote last
    exit_ = await run.wait_exit()
    code = exit_.code if exit_.code is not None else 128 + (exit_.signal or 0)
    yield ExecOutput((), code)


def _lines(records: list[LogRecord]) -> tuple[LogLine, ...]:
    """What the command itself said; the shim's own notes are of no interest to whoever asked."""
    return tuple(
        LogLine(record.at_ms, record.stream, record.text, record.continued)
        for record in records
        if record.stream != "freecloud"
    )
