"""TCP behind the `Stream` seam."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

import trio

from mesh.errors import UnreachableError, UsageError

NOTSENT_LOWAT_BYTES = 16 * 1024
"""The kernel takes no more than this beyond what the network takes, or a thin pipe would hold a second of bulk in
front of each heartbeat. Linux default: unlimited."""

CONNECT_STAGGER_S = 0.25  # RFC 8305 section 5: the wait before the next address of a name is tried too

_BROKEN = {
    errno.EPIPE,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
}


class TcpStream:
    """A connected TCP socket.

    The socket is used directly: `trio.SocketStream` waits for writability before each send, which costs a system
    call for every small frame. Reading waits first when the last read has emptied the kernel's buffer: to ask first
    costs a call, and trio's own `recv` one more turn of its loop.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._closed = False
        self._rest = b""  # of what `try_send` took
        self._emptied = False  # by the last read
        with suppress(OSError):
            # Refused on sockets that are not TCP; they work without it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)

    async def send_all(self, payload: bytes) -> None:
        if self._rest:
            payload, self._rest = self._rest + payload, b""
        with memoryview(payload) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += await self._socket.send(view[sent:])
                except OSError as error:
                    raise self._translated(error) from error

    def try_send(self, payload: bytes) -> bool:
        self._rest += payload
        with suppress(OSError):  # full, or broken: the next `send_all` waits, or tells
            self._rest = self._rest[os.write(self._socket.fileno(), self._rest) :]
        return not self._rest

    async def receive_some(self, bytes_max: int) -> bytes:
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed here")
            try:
                if self._emptied:
                    await trio.lowlevel.wait_readable(self._socket)
                else:
                    await trio.lowlevel.checkpoint()
                received = os.read(self._socket.fileno(), bytes_max)
            except BlockingIOError:
                self._emptied = True
            except OSError as error:
                raise self._translated(error) from error
            else:
                self._emptied = len(received) < bytes_max
                return received

    async def aclose(self) -> None:
        self._closed = True
        self._socket.close()
        await trio.lowlevel.checkpoint()

    def peer_host(self) -> str:
        """The other end's address without its port; "" when it is gone already."""
        try:
            name = self._socket.getpeername()
        except OSError:
            return ""
        return str(name[0]) if isinstance(name, tuple) else ""

    def _translated(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._closed or error.errno == errno.EBADF:
            return trio.ClosedResourceError("this stream was closed here")
        reason = "the connection broke" if error.errno in _BROKEN else "the connection failed"
        return trio.BrokenResourceError(f"{reason}: {error.strerror}")


async def dial_tcp(address: str) -> TcpStream:
    """Connect to `host:port`; of several addresses behind a name the first that answers is taken.

    Raises:
        UnreachableError: Nothing answers there.
        UsageError: It is no `host:port`.
    """
    host, port = split_address(address)
    try:
        stream = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=CONNECT_STAGGER_S)
    except OSError as error:
        raise UnreachableError(f"cannot connect to {address}", why=_cause(error)) from error
    except (UnicodeError, ValueError) as error:  # of the resolver: a host that no name can be, such as "a..b"
        raise UnreachableError(f"cannot connect to {address!r}", why="there can be no such host") from error
    return TcpStream(stream.socket)


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, or `[IPv6]:port`, in its two parts."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        raise UsageError(f"{address!r} is no address", hint="write HOST:PORT, or [IPV6]:PORT")
    return host, int(port)


def _cause(error: OSError) -> str:
    """What the system said; trio wraps the attempts at several addresses into one group."""
    inner: BaseException = error
    while isinstance(inner.__cause__, BaseException):
        inner = inner.__cause__
    if isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner)
