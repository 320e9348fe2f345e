"""Apps' logs from any node: each node serves what its own replicas wrote, living and gone; the asker merges.

A replica's log stays on the node that ran it, for a day after its end (users' pain 12), so every trusted member is
asked; one that cannot be reached is named, not passed over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from mesh.errors import FreecloudError, UsageError
from mesh.lanes import Lane
from mesh.names import NodeId, Role
from mesh.peers import Peers
from mesh.rpc import Caller, Method, RpcServer, Shape
from scheduler.runtimes.logs import LogPosition, LogRecord, log_path, logged_replicas, read_on, read_tail
from scheduler.runtimes.messages import RUNTIME, LogLine, LogLines, LogsRequest

LINES_MAX = 10_000
TAIL_BYTES_MAX = 1024 * 1024
PIECE_BYTES_MAX = 64 * 1024
"""Of one message: far below what an RPC message may have, whatever the text becomes on the wire."""

FOLLOW_EVERY_S = 0.25
"""A follower looks at the file's end four times a second, only while somebody follows: the writer is another process,
and inotify would cost every daemon a descriptor and a foreign-function library for it."""

QUEUE_PIECES_MAX = 64

APP_LOGS = Method("app.logs", LogsRequest, LogLines, RUNTIME, Role.TRUSTED, Lane.BULK, Shape.STREAM)


@dataclass(frozen=True, slots=True)
class NodeLogs:
    """A piece of one node's answer: lines, or why there are none."""

    node_id: NodeId
    lines: LogLines | None
    error: FreecloudError | None


class AppLogs:
    """This node's logs for others, and others' for this node.

    Args:
        folder: The node's `logs`.
        peers: To ask others.
        living: The replicas that run here now.
    """

    def __init__(self, folder: Path, peers: Peers, living: Callable[[], frozenset[str]]) -> None:
        self._folder = folder
        self._peers = peers
        self._living = living

    def register(self, server: RpcServer) -> None:
        server.register(APP_LOGS, self._serve)

    @asynccontextmanager
    async def gather(
        self, request: LogsRequest, nodes: Iterable[NodeId], *, deadline: float
    ) -> AsyncIterator[trio.MemoryReceiveChannel[NodeLogs]]:
        """Every node's lines as they come, in order within a replica; merging by time is the reader's.

        `async with logs.gather(…) as pieces: async for piece in pieces: …`; leaving the block ends the asking.

        Args:
            request: What is wanted.
            nodes: Whom to ask, this node included.
            deadline: For everything; inf to follow until the caller has enough.
        """
        send, receive = trio.open_memory_channel[NodeLogs](QUEUE_PIECES_MAX)
        async with trio.open_nursery() as nursery:
            for node_id in nodes:
                nursery.start_soon(self._ask, node_id, request, deadline, send.clone())
            send.close()
            async with receive:
                yield receive
            nursery.cancel_scope.cancel()

    async def _ask(
        self, node_id: NodeId, request: LogsRequest, deadline: float, send: trio.MemorySendChannel[NodeLogs]
    ) -> None:
        async with send:
            try:
                async with self._peers.stream(node_id, APP_LOGS, request, deadline=deadline) as answers:
                    async for lines in answers:
                        await send.send(NodeLogs(node_id, lines, None))
            except FreecloudError as error:
                await send.send(NodeLogs(node_id, None, error))

    async def _serve(self, caller: Caller, request: LogsRequest) -> AsyncIterator[LogLines]:
        if not 0 <= request.lines_max <= LINES_MAX:
            raise UsageError(f"0 to {LINES_MAX} lines can be asked for")
        for name in (request.app, request.replica_id):
            if "/" in name or name.startswith("."):
                raise UsageError(f"no app or replica is called {name!r}")
        followed: dict[str, LogPosition] = {}
        for replica_id in await self._replicas(request):
            path = log_path(self._folder, request.app, replica_id)
            records, position = await trio.to_thread.run_sync(read_tail, path, request.lines_max, TAIL_BYTES_MAX)
            followed[replica_id] = position
            for piece in self._pieces(replica_id, records):
                yield piece
        while request.follow:
            await trio.sleep(FOLLOW_EVERY_S)
            for replica_id in await self._replicas(request):
                position = followed.get(replica_id, LogPosition(0, 0))
                path = log_path(self._folder, request.app, replica_id)
                records, followed[replica_id] = await trio.to_thread.run_sync(
                    read_on, path, position, PIECE_BYTES_MAX
                )
                for piece in self._pieces(replica_id, records):
                    yield piece

    async def _replicas(self, request: LogsRequest) -> list[str]:
        found = await trio.to_thread.run_sync(lambda: [name for name, _ in logged_replicas(self._folder, request.app)])
        return [name for name in found if request.replica_id in ("", name)]

    def _pieces(self, replica_id: str, records: list[LogRecord]) -> list[LogLines]:
        """The records in messages of bounded size."""
        ended = replica_id not in self._living()
        pieces: list[list[LogLine]] = [[]]
        size = 0
        for record in records:
            line = LogLine(record.at_ms, record.stream, record.text, record.continued)
            size += 64 + len(record.text) * 4
            if size > PIECE_BYTES_MAX and pieces[-1]:
                pieces.append([])
                size = 64 + len(record.text) * 4
            pieces[-1].append(line)
        return [LogLines(replica_id, tuple(lines), ended) for lines in pieces if lines]
