"""A small HTTP/1.1 client over any byte stream: one request after the other, bodies streamed both ways.

For the daemon's own needs (health checks, a node's API over a link, tests); it follows no redirect, keeps no cookie,
decodes no content and opens no connection: whoever has the stream has decided whom to talk to.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import trio

from mesh.errors import DeadlineError, ExhaustedError, ProtocolError, UnreachableError
from mesh.http.http1 import ResponseReader
from mesh.http.limits import DEFAULT_LIMITS, HttpLimits
from mesh.http.messages import Framing, Headers, HttpRefused, PeerGone, ResponseHead, Signal
from mesh.http.responses import encode_request
from mesh.http.streams import BROKEN, ByteStream

CLOSE_S = 2.0
"""A stream's close may have a word to say (TLS); it gets this long."""


class ClientResponse:
    """A response whose head has come; its body is read by iterating, once."""

    def __init__(self, connection: ClientConnection, head: ResponseHead, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self.status = head.status
        self.reason = head.reason.decode("latin-1")
        self.headers = head.headers
        self.head = head

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field, by its lower-case name."""
        return self.head.header(name)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._connection.next_piece(self._deadline):
            yield piece

    async def read(self, bytes_max: int) -> bytes:
        """The whole body.

        Raises:
            ExhaustedError: It is larger than `bytes_max`.
        """
        body = bytearray()
        while piece := await self._connection.next_piece(self._deadline):
            body += piece
            if len(body) > bytes_max:
                raise ExhaustedError("the answer is too large", why=f"the limit is {bytes_max} bytes")
        return bytes(body)


class ClientConnection:
    """One connection to a server, as an async context manager that closes it.

    Raises (all methods):
        DeadlineError: The deadline passed; the connection is of no further use.
        UnreachableError: The server closed or reset the connection.
        ProtocolError: The server does not speak HTTP/1.1.
    """

    def __init__(self, stream: ByteStream, limits: HttpLimits = DEFAULT_LIMITS) -> None:
        self._stream = stream
        self._limits = limits
        self._reader = ResponseReader(limits)
        self._keep_alive = True

    async def __aenter__(self) -> ClientConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await self._stream.aclose()

    @property
    def reusable(self) -> bool:
        """May another request follow? Only when the last response was read to its end."""
        return self._keep_alive and self._reader.complete and not self._reader.ended and not self._reader.unread

    async def request(
        self,
        method: str,
        target: str,
        *,
        host: str,
        headers: Headers | None = None,
        body: bytes | AsyncIterable[bytes] = b"",
        deadline: float,
    ) -> ClientResponse:
        """Send a request and wait for the head of its answer.

        Args:
            target: Path and query, escaped.
            body: Bytes go with their length, an iterable goes in chunks.
            deadline: Absolute; for the whole exchange, the response's body included.
        """
        length = len(body) if isinstance(body, bytes) else 0
        framing = Framing.CHUNKED if not isinstance(body, bytes) else Framing.LENGTH if length else Framing.NONE
        head = encode_request(method, target.encode("ascii"), host.encode("ascii"), headers or [], framing, length)
        async with _told(deadline):
            if isinstance(body, bytes):
                await self._send(head + body)
            else:
                await self._send(head)
                async for piece in body:
                    if piece:
                        await self._send(b"%x\r\n%b\r\n" % (len(piece), piece))
                await self._send(b"0\r\n\r\n")
            response = await self._next_head(method)
        self._keep_alive = response.keep_alive
        return ClientResponse(self, response, deadline)

    async def next_piece(self, deadline: float) -> bytes:
        """The next piece of the current response's body, b"" after the last."""
        async with _told(deadline):
            while True:
                piece = self._reader.next_body()
                if piece is Signal.END:
                    return b""
                if isinstance(piece, bytes):
                    return piece
                await self._fill()

    async def _next_head(self, method: str) -> ResponseHead:
        while True:
            head = self._reader.next_response(method)
            if isinstance(head, ResponseHead):
                if head.status >= 200 or head.status == 101:
                    return head
            elif head is Signal.CLOSED:
                raise PeerGone("the server closed the connection without an answer")
            else:
                await self._fill()

    async def _send(self, block: bytes) -> None:
        """A server that has answered already may have stopped reading: what it said is looked for all the same."""
        try:
            await self._stream.send_all(block)
        except BROKEN:
            self._keep_alive = False

    async def _fill(self) -> None:
        self._reader.receive(bytes(await self._stream.receive_some(self._limits.read_bytes)))


@asynccontextmanager
async def _told(deadline: float) -> AsyncIterator[None]:
    """Bound a step and tell its failures in the project's errors."""
    with trio.CancelScope(deadline=deadline) as scope:
        try:
            yield
        except HttpRefused as error:
            raise ProtocolError("the server does not speak HTTP as we do", why=error.what) from error
        except BROKEN as error:
            raise UnreachableError("the server ended the connection", why=str(error)) from error
    if scope.cancelled_caught:
        raise DeadlineError("the server did not answer in time")
