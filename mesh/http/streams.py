"""The seam to the bytes below: anything with three methods, and what is known of the other end."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

import trio

from mesh.http.messages import Endpoints, PeerCredentials


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


BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""What a stream raises when the other side is gone; the tunnels of the mesh raise the same."""
