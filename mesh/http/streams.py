"""The seam to the bytes below: anything with three methods, and what is known of the other end."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

import trio

from mesh.http.messages import Endpoints, PeerCredentials

TURNS = 16
"""Operations that one connection may do in a row before others run: some 100 µs."""


class ByteStream(Protocol):
    """A connection: TCP, unix socket, TLS, a tunnel over a mesh link, a pair in memory."""

    async def send_all(self, data: bytes, /) -> None:
        """Send everything; returns when it was handed on, so that a slow reader holds the sender back."""

    async def receive_some(self, max_bytes: int, /) -> bytes:
        """At least one byte, or b"" when the other side has finished sending."""

    async def aclose(self) -> None:
        """Close both directions, at once and without a wait."""


def endpoints_of(sock: trio.socket.SocketType, scheme: str) -> Endpoints:
    """What the kernel knows about an accepted connection.

    Raises:
        OSError: The client is already gone.
    """
    if sock.family == socket.AF_UNIX:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return Endpoints(scheme=scheme, peer=PeerCredentials(*struct.unpack("3i", raw)))
    client, server = sock.getpeername(), sock.getsockname()
    return Endpoints(scheme, (client[0], client[1]), (server[0], server[1]))


async def finish_sending(stream: ByteStream) -> None:
    """Tell the other side that nothing follows, where the stream can say so; a no-op where it can't."""
    send_eof = getattr(stream, "send_eof", None)
    if send_eof is not None:
        await send_eof()


class TlsStream:
    """trio's TLS stream behind the seam: it hands out bytearrays, and leaves the closing word to those who wait."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def send_all(self, data: bytes, /) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int, /) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


class SocketByteStream:
    """A connected socket, tried before it is waited for.

    trio's own stream takes a checkpoint and two context managers an operation, the cancel scope of a deadline as much
    again; here an operation that the kernel can do at once costs its system call, and only a wait has a scope.
    So that one eager connection can't keep the others waiting, every `TURNS`th operation lets them run.
    """

    __slots__ = ("_sock", "_turns")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._turns = 0

    @classmethod
    def over(cls, stream: trio.SocketStream) -> SocketByteStream:
        """The same connection; the trio stream is of no further use."""
        family = stream.socket.family
        return cls(socket.socket(family, socket.SOCK_STREAM, fileno=stream.socket.detach()))

    async def send_all(self, data: bytes, /) -> None:
        sent = await self.send_at_once(data)
        with memoryview(data) as rest:
            while sent < len(data):
                await trio.lowlevel.wait_writable(self._sock)
                sent += self._send(rest[sent:])

    async def receive_some(self, max_bytes: int, /) -> bytes:
        piece = await self.receive_at_once(max_bytes)
        return piece if piece is not None else await self.receive_later(max_bytes)

    async def send_eof(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        await trio.lowlevel.checkpoint()

    async def send_at_once(self, data: bytes) -> int:
        """How much of it the kernel took without a wait."""
        await self._take_turn()
        return self._send(data)

    async def receive_at_once(self, max_bytes: int) -> bytes | None:
        """What is there already; None when nothing is."""
        await self._take_turn()
        return self._receive(max_bytes)

    async def receive_later(self, max_bytes: int) -> bytes:
        """What comes next, after a look has found nothing."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            piece = self._receive(max_bytes)
            if piece is not None:
                return piece

    async def _take_turn(self) -> None:
        self._turns += 1
        if self._turns >= TURNS:
            self._turns = 0
            await trio.lowlevel.checkpoint()

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def _receive(self, max_bytes: int) -> bytes | None:
        try:
            return self._sock.recv(max_bytes)
        except BlockingIOError:
            return None


async def receive_until(stream: ByteStream, max_bytes: int, deadline: float) -> bytes | None:
    """A read with a deadline; None when it has passed."""
    read = stream.receive_some
    if isinstance(stream, SocketByteStream):
        piece = await stream.receive_at_once(max_bytes)
        if piece is not None:
            return piece
        read = stream.receive_later
    with trio.CancelScope(deadline=deadline):
        return await read(max_bytes)
    return None


async def send_within(stream: ByteStream, block: bytes, seconds: float) -> bool:
    """Send, but wait for no reader longer than this; False when the time was up."""
    if isinstance(stream, SocketByteStream):
        sent = await stream.send_at_once(block)
        if sent == len(block):
            return True
        block = block[sent:]
    with trio.move_on_after(seconds):
        await stream.send_all(block)
        return True
    return False


BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""What a stream raises when the other side is gone; the tunnels of the mesh raise the same."""
