"""The HTTP server: listeners, a task per connection, limits on how many, and an orderly end.

A connection is served by `connection.HttpConnection`; here is only who gets in and when all is over.
"""

from __future__ import annotations

import errno
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from mesh.http.connection import Counts, Handler, HttpConnection
from mesh.http.limits import DEFAULT_LIMITS, HttpLimits
from mesh.http.messages import Endpoints
from mesh.http.streams import ByteStream, SocketByteStream, TlsStream, endpoints_of

OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
ACCEPT_RETRY_S = 0.1
"""Nothing signals that descriptors are free again; trio's own server waits as long."""

CONNECTION_ERRORS = frozenset((errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH))
"""What accept(2) tells of one connection that is already gone; the next is another one."""

LOOPBACK = frozenset(("127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True)
class HttpStatistics:
    """A server's figures since it started, but for the first, which is of now."""

    connections: int
    accepted: int
    turned_away: int  # over a limit of connections
    requests: int
    refused: tuple[tuple[str, int], ...]  # by the error's code, which names the limit that was hit
    timed_out: int
    gone: int
    failed: int


class HttpServer:
    """Serves one handler on any number of listeners.

    Args:
        handler: Called for each request with its `Exchange`.
        tls: When given, connections speak TLS first; its handshake has `head_time_s`.
    """

    def __init__(
        self, handler: Handler, limits: HttpLimits = DEFAULT_LIMITS, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._tls = tls
        self._counts = Counts()
        self._connections: set[HttpConnection] = set()
        self._by_address: Counter[str] = Counter()
        self._accepted = 0
        self._turned_away = 0
        self._open = 0
        self._draining = False
        self._accepting = trio.CancelScope()
        self._empty = trio.Event()
        self._scope = trio.CancelScope()

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained or cancelled; the listeners are closed at the end.

        Raises:
            OSError: A listener itself is broken.
        """
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._accept_all, listeners, nursery)
                    task_status.started()
            finally:
                for listener in listeners:
                    listener.socket.close()

    async def drain(self, deadline: float) -> None:
        """Take no more connections, let idle ones end, give those at work until the deadline; then end all."""
        self._draining = True
        self._accepting.cancel()
        for connection in tuple(self._connections):
            connection.drain()
        with trio.move_on_at(deadline):
            while self._open:
                self._empty = trio.Event()
                await self._empty.wait()
        self._scope.cancel()

    def statistics(self) -> HttpStatistics:
        counts = self._counts
        return HttpStatistics(
            self._open,
            self._accepted,
            self._turned_away,
            counts.requests,
            tuple(sorted(counts.refused.items())),
            counts.timed_out,
            counts.gone,
            counts.failed,
        )

    async def serve_stream(self, stream: ByteStream, endpoints: Endpoints) -> None:
        """Serve one connection that came some other way than by a listener, to its end."""
        connection = HttpConnection(stream, endpoints, self._handler, self._limits, self._counts)
        self._connections.add(connection)
        if self._draining:
            connection.drain()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _accept_all(self, listeners: Sequence[trio.SocketListener], nursery: trio.Nursery) -> None:
        with self._accepting:
            async with trio.open_nursery() as acceptors:
                for listener in listeners:
                    acceptors.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    await trio.sleep(ACCEPT_RETRY_S)
                elif error.errno not in CONNECTION_ERRORS:
                    raise
                continue
            self._accepted += 1
            nursery.start_soon(self._admit, stream)

    async def _admit(self, stream: trio.SocketStream) -> None:
        try:
            endpoints = endpoints_of(stream.socket, "http" if self._tls is None else "https")
        except OSError:
            stream.socket.close()
            return
        address = endpoints.client[0] if endpoints.client is not None else ""
        if not self._enter(address):
            self._turned_away += 1
            stream.socket.close()
            return
        try:
            secured = await self._secure(stream)
            if secured is not None:
                await self.serve_stream(secured, endpoints)
        finally:
            self._leave(address)

    async def _secure(self, stream: trio.SocketStream) -> ByteStream | None:
        """The stream itself, or TLS over it; None when the handshake came to nothing."""
        if self._tls is None:
            return SocketByteStream.over(stream)
        wrapped: trio.SSLStream[trio.SocketStream] = trio.SSLStream(
            stream, self._tls, server_side=True, https_compatible=True
        )
        try:
            with trio.move_on_after(self._limits.head_time_s) as scope:
                await wrapped.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(wrapped)
            return None
        if scope.cancelled_caught:
            self._counts.timed_out += 1
            await trio.aclose_forcefully(wrapped)
            return None
        return TlsStream(wrapped)

    def _enter(self, address: str) -> bool:
        """Is there room for one more? A connection over a limit is closed at once: the edge sheds, it doesn't queue."""
        limits = self._limits
        counted = bool(address) and address not in LOOPBACK
        if self._open >= limits.connections_max:
            return False
        if counted and self._by_address[address] >= limits.connections_an_address_max:
            return False
        self._open += 1
        if counted:
            self._by_address[address] += 1
        return True

    def _leave(self, address: str) -> None:
        self._open -= 1
        if self._by_address.get(address):
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
        if not self._open:
            self._empty.set()
