"""The door to this node's replicas: every connection to one passes here, and is counted for as long as it is open.

The node's own ingress and the landing of other nodes' tunnels both come through it, so "no request that this node
relays is in flight to that replica" can be observed: no connection is open. One at rest counts too; whoever keeps it
closes it as soon as its routes drop the replica, which is what a replica that leaves waits for.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable

import trio

from mesh.errors import DeadlineError, RefusedError, UnreachableError
from mesh.http.streams import SocketByteStream

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux alone


class LoopbackStream(SocketByteStream):
    """A connection to an app, which acknowledges at once what it receives.

    An app that writes head and body apart, without TCP_NODELAY, has its kernel hold back the body until the head was
    acknowledged (Nagle), and ours would do that after 40 ms (delayed acknowledgement). The kernel forgets the option
    with the next segment sent, hence after every read: 0.4 µs.
    """

    __slots__ = ("_on_closed",)

    def __init__(self, sock: socket.socket, on_closed: Callable[[], None] | None = None) -> None:
        super().__init__(sock)
        self._on_closed = on_closed

    async def aclose(self) -> None:
        on_closed, self._on_closed = self._on_closed, None
        try:
            await super().aclose()
        finally:
            if on_closed is not None:
                on_closed()

    def _receive(self, max_bytes: int) -> bytes | None:
        piece = super()._receive(max_bytes)
        if piece and _QUICKACK is not None:
            with contextlib.suppress(OSError):  # reset since: the next read says so
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return piece


async def open_loopback(
    port: int, *, deadline: float, on_closed: Callable[[], None] | None = None
) -> LoopbackStream:
    """A connection to a port of this machine, given by number, so that nothing is resolved.

    Args:
        on_closed: Called once, when the stream has been closed.

    Raises:
        UnreachableError: Nobody listens.
        DeadlineError: Its queue is full.
    """
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with trio.CancelScope(deadline=deadline) as scope:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await sock.connect(("127.0.0.1", port))
        except OSError as error:
            sock.close()
            raise UnreachableError(f"nobody answers on port {port} of this node", why=str(error)) from error
        except BaseException:
            sock.close()
            raise
    if scope.cancelled_caught:
        raise DeadlineError(f"port {port} of this node took no connection in time")
    return LoopbackStream(socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=sock.detach()), on_closed)


class LocalReplicas:
    """Connects to replicas of this node, by replica and assignment, and knows when nobody is connected.

    Args:
        local_port: (replica id, assignment index) → the port on loopback; None when that isn't what runs here, or it
            takes nothing new because it is about to end.
    """

    def __init__(self, local_port: Callable[[str, int], int | None]) -> None:
        self._local_port = local_port
        self._open: Counter[str] = Counter()
        self._closed = trio.Event()

    async def connect(self, replica_id: str, assignment_index: int, *, deadline: float) -> LoopbackStream:
        """A connection to the replica, if it runs here by this very assignment.

        Raises:
            RefusedError: It does not; nothing was sent.
            UnreachableError, DeadlineError: It takes no connection.
        """
        port = self._local_port(replica_id, assignment_index)
        if port is None:
            raise RefusedError(
                f"{replica_id} does not run here under assignment {assignment_index}",
                hint="the asking node's routes are older than this one's: another replica answers",
                code="tunnel.stale",
            )

        def closed() -> None:
            self._leave(replica_id)

        self._open[replica_id] += 1
        try:
            return await open_loopback(port, deadline=deadline, on_closed=closed)
        except BaseException:
            self._leave(replica_id)
            raise

    async def wait_idle(self, replica_id: str) -> None:
        """Return when no connection to this replica is open. It may wait for long: the caller has a deadline."""
        while self._open[replica_id]:
            await self._closed.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def connections(self) -> dict[str, int]:
        """How many are open to each replica."""
        return dict(+self._open)

    def _leave(self, replica_id: str) -> None:
        self._open[replica_id] -= 1
        if not self._open[replica_id]:
            del self._open[replica_id]
            self._closed.set()
            self._closed = trio.Event()
