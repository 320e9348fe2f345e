"""One client's connection, served by one task: read a request, hand it on, see its answer off, and again.

`HttpConnection` is the seam that DESIGN.md's reactor will fill another way; a handler sees only its `Exchange`.
The machines decide what is legal; here are the waits, each with its deadline.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache

import trio

from mesh.http.http1 import RequestReader
from mesh.http.limits import HttpLimits
from mesh.http.messages import Endpoints, Headers, HttpRefused, PeerGone, RequestHead, Signal
from mesh.http.responses import BadAnswer, ResponseWriter, encode_fields, problem, refusal
from mesh.http.streams import (
    BROKEN,
    ByteStream,
    SocketByteStream,
    finish_sending,
    receive_until,
    send_within,
)

logger = logging.getLogger(__name__)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SEND_PIECE_BYTES = 64 * 1024
"""One send with one deadline: a client that takes less than this in `body_idle_s` (2 KiB/s) has stopped reading."""

Handler = Callable[["Exchange"], Awaitable[None]]


@dataclass(slots=True)
class Counts:
    """What a server has seen, summed over its connections."""

    requests: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by the error's code, which names the limit that was hit
    timed_out: int = 0
    gone: int = 0  # the client left in the middle
    failed: int = 0  # the handler raised, or its answer was no HTTP


class HttpConnection:
    """Serves one stream until either side has enough.

    Args:
        stream: Closed at the end, whatever happens.
        handler: Called once a request, one at a time.
        counts: The server's, added to.
    """

    def __init__(
        self, stream: ByteStream, endpoints: Endpoints, handler: Handler, limits: HttpLimits, counts: Counts
    ) -> None:
        self.endpoints = endpoints
        self.limits = limits
        self._stream = stream
        self._handler = handler
        self._counts = counts
        self._reader = RequestReader(limits)
        self._idle: trio.CancelScope | None = None
        self.draining = False

    def drain(self) -> None:
        """Answer what has begun, take no further request: an idle connection ends at once."""
        self.draining = True
        if self._idle is not None:
            self._idle.cancel()

    async def run(self) -> None:
        """Serve until the connection ends; raises nothing but cancellation."""
        try:
            await self._serve()
        except (PeerGone, *BROKEN):
            self._counts.gone += 1
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.limits.linger_s):
                await self._stream.aclose()

    async def _serve(self) -> None:
        first = True
        while not self.draining:
            try:
                request = await self._next_request(first)
            except HttpRefused as error:
                await self._refuse(error)
                return
            if request is None:
                return
            self._counts.requests += 1
            exchange = Exchange(self, self._stream, self._reader, request)
            await self._handle(exchange)
            if exchange.upgraded or not await exchange.settle():
                break
            first = False

    async def _handle(self, exchange: Exchange) -> None:
        """Run the handler; whatever it leaves undone is answered here, the edge of all handlers."""
        try:
            await self._handler(exchange)
            if not exchange.started and not exchange.upgraded:
                raise BadAnswer("the application ended without an answer")
        except HttpRefused as error:
            self._counts.refused[error.stable_code] += 1
            await exchange.refuse(error)
        except (PeerGone, *BROKEN):
            raise
        except Exception:
            if exchange.client_gone:
                raise PeerGone("the client left while it was answered") from None
            self._counts.failed += 1
            logger.exception("answering %s %r failed", exchange.request.method, exchange.request.path)
            await exchange.fail()

    async def _next_request(self, first: bool) -> RequestHead | None:
        """The next head, or None when the client has finished or waited too long between two requests."""
        limits = self.limits
        waiting_since = trio.current_time()
        deadline = waiting_since + (limits.head_time_s if first else limits.keep_alive_s)
        in_head = first or self._reader.unread > 0
        if in_head:
            deadline = waiting_since + limits.head_time_s
        while True:
            request = self._reader.next_request()
            if isinstance(request, RequestHead):
                return request
            if request is Signal.CLOSED:
                return None
            if not in_head and self._reader.unread:
                in_head, deadline = True, trio.current_time() + limits.head_time_s
            if not await self._fill_idle(deadline):
                if self.draining or not self._reader.unread:
                    return None
                self._counts.timed_out += 1
                why = f"the limit is {limits.head_time_s:g} s"
                raise HttpRefused("the request's head took too long", status=408, why=why, code="limit.head-time")

    async def _fill_idle(self, deadline: float) -> bool:
        """One read between requests; False when the time was up or the server drains."""
        stream, read_bytes = self._stream, self.limits.read_bytes
        read = stream.receive_some
        if isinstance(stream, SocketByteStream):
            piece = await stream.receive_at_once(read_bytes)
            if piece is not None:
                self._reader.receive(piece)
                return True
            read = stream.receive_later
        with trio.CancelScope(deadline=deadline) as scope:
            self._idle = scope if not self._reader.unread else None
            try:
                self._reader.receive(await read(read_bytes))
            finally:
                self._idle = None
        return not scope.cancelled_caught

    async def _refuse(self, error: HttpRefused) -> None:
        """Answer a request that couldn't be read, then close (attack 26: nothing after it is parsed)."""
        self._counts.refused[error.stable_code] += 1
        status, headers, body = refusal(error)
        writer = ResponseWriter(None, keep_alive=False)
        block = writer.head(status, headers, date=date(), whole=len(body)) + writer.data(body)
        await send_bounded(self._stream, block, self.limits)
        await linger(self._stream, self.limits)


class Exchange:
    """One request and its answer, as a handler sees them.

    `receive` gives the body piece by piece and asks for more only then, so that a client is held back to the
    handler's pace; `send` returns when the kernel took the bytes, so that the handler is held back to the client's.
    """

    def __init__(
        self, connection: HttpConnection, stream: ByteStream, reader: RequestReader, request: RequestHead
    ) -> None:
        self.request = request
        self.endpoints = connection.endpoints
        self.upgraded = False
        self._connection = connection
        self.limits = connection.limits
        self._stream = stream
        self._reader = reader
        self._writer = ResponseWriter(request, keep_alive=request.keep_alive and not connection.draining)
        self._continue_due = request.expects_continue
        self._waited_s = 0.0
        self._received = 0
        self._finished = False

    @property
    def started(self) -> bool:
        """Has any of the answer been sent?"""
        return self._writer.started

    @property
    def finished(self) -> bool:
        """Has all of the answer been sent?"""
        return self._finished

    @property
    def client_gone(self) -> bool:
        """Did the client leave before its request was whole?"""
        return isinstance(self._reader.failure, PeerGone)

    @property
    def body_complete(self) -> bool:
        """Has the request's body been read to its end?"""
        return self._reader.complete

    async def receive(self) -> bytes:
        """The next piece of the request's body, b"" after the last.

        Raises:
            HttpRefused: The body is broken, too large or too slow; let it pass, it is answered at the edge.
            PeerGone: The client left.
        """
        while True:
            piece = self._reader.next_body()
            if piece is Signal.END:
                return b""
            if isinstance(piece, bytes):
                self._received += len(piece)
                return piece
            if self._continue_due:
                self._continue_due = False
                await send_bounded(self._stream, CONTINUE, self.limits)
            await self._fill()

    async def wait_disconnect(self) -> None:
        """Return when the client has closed its side; meanwhile what it sends further is kept, up to one read."""
        while not self._reader.ended:
            if self._reader.unread >= self.limits.read_bytes:
                await trio.sleep_forever()  # a client that pipelines this much is alive; its next request tells
            try:
                self._reader.receive(await self._stream.receive_some(self.limits.read_bytes))
            except BROKEN:
                return

    async def respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """The whole answer in one write."""
        self._prepare_answer()
        head = self._writer.head(status, headers, date=date(), whole=len(body))
        await self._send(head + self._writer.data(body) + self._writer.end())
        self._finished = True

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], first: bytes = b"") -> None:
        """The answer's head, and its first piece with it; its end is told by its Content-Length or by chunks."""
        self._prepare_answer()
        await self._send(self._writer.head(status, headers, date=date(), whole=None) + self._writer.data(first))

    async def send(self, piece: bytes) -> None:
        """A further piece of the answer's body.

        Raises:
            PeerGone: The client left, or takes nothing any more.
        """
        framed = self._writer.data(piece)
        if framed:
            await self._send(framed)

    async def finish(self, last: bytes = b"") -> None:
        """The end of the answer."""
        framed = self._writer.data(last) + self._writer.end()
        if framed:
            await self._send(framed)
        self._finished = True

    async def upgrade(self, headers: Headers) -> ByteStream:
        """Switch protocols (101): the connection is the handler's from here on, its first bytes included."""
        assert self._reader.complete and not self.started, "an upgrade answers a request without a body"
        self.upgraded = True
        await self._send(b"HTTP/1.1 101 Switching Protocols\r\n" + encode_fields(headers))
        return _Prefixed(self._reader.take_rest(), self._stream)

    async def refuse(self, error: HttpRefused) -> None:
        """Answer a request whose body was refused; once an answer has begun, only closing can say so."""
        self._writer.keep_alive = False
        if not self.started:
            status, headers, body = refusal(error)
            await self._answer_and_close(status, headers, body)

    async def fail(self) -> None:
        """Answer for a handler that failed: 500, or the connection's end where an answer has begun."""
        self._writer.keep_alive = False
        if not self.started and not self.upgraded:
            headers, body = problem(500, "the server failed", code="failed")
            await self._answer_and_close(500, headers, body)

    async def settle(self) -> bool:
        """After the answer: may the connection go on? Reads what little is left of the body, or lets it end."""
        if not self._finished or not self._writer.keep_alive or self._reader.failed:
            await self._end()
            return False
        if self._reader.complete:
            return True
        left = self._reader.remaining
        if self._continue_due or left is None or left > self.limits.drain_bytes_max:
            await self._end()
            return False
        try:
            while await self.receive():
                continue
        except HttpRefused:
            await self._end()
            return False
        return True

    async def _answer_and_close(self, status: int, headers: Headers, body: bytes) -> None:
        writer = ResponseWriter(self.request, keep_alive=False)
        block = writer.head(status, headers, date=date(), whole=len(body)) + writer.data(body)
        await self._send(block)
        self._finished = True

    async def _end(self) -> None:
        if self._finished:
            await linger(self._stream, self.limits)

    async def _fill(self) -> None:
        """One read of the body, within the idle time and not slower than the slowest allowed."""
        limits = self.limits
        asked_at = trio.current_time()
        piece = await receive_until(self._stream, limits.read_bytes, asked_at + limits.body_idle_s)
        if piece is not None:
            self._reader.receive(piece)
        self._waited_s += trio.current_time() - asked_at
        bytes_due = (self._waited_s - limits.body_idle_s) * limits.body_bytes_a_second_min
        too_slow = self._received + self._reader.unread < bytes_due
        if piece is None or too_slow:
            why = f"the limits are {limits.body_idle_s:g} s between pieces and {limits.body_bytes_a_second_min} bytes/s"
            raise self._reader.fail(
                HttpRefused("the request's body came too slowly", status=408, why=why, code="limit.body-time")
            )

    def _prepare_answer(self) -> None:
        """What has happened since the request came may forbid an answer, or a further request after it."""
        if self._reader.failed:
            self._reader.next_body()  # raises: an answer to a request that broke off would be taken for success
        if self._connection.draining or (self._continue_due and not self._reader.complete):
            # A client that waits for 100 Continue and gets a final answer may or may not send its body (attack 26).
            self._writer.keep_alive = False

    async def _send(self, block: bytes) -> None:
        await send_bounded(self._stream, block, self.limits)


class _Prefixed:
    """A stream whose first bytes were read already."""

    def __init__(self, first: bytes, stream: ByteStream) -> None:
        self._first = first
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        if self._first:
            piece, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return piece
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await finish_sending(self._stream)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def send_bounded(stream: ByteStream, block: bytes, limits: HttpLimits) -> None:
    """Send, but wait for no reader longer than the idle time.

    Raises:
        PeerGone: It takes nothing any more.
    """
    for start in range(0, len(block), SEND_PIECE_BYTES):
        piece = block if len(block) <= SEND_PIECE_BYTES else block[start : start + SEND_PIECE_BYTES]
        if not await send_within(stream, piece, limits.body_idle_s):
            raise PeerGone("the client has stopped reading")


async def linger(stream: ByteStream, limits: HttpLimits) -> None:
    """Say that nothing follows and read on for a moment: closing over unread bytes would reset the connection, and
    the client would lose the answer that tells it why (RFC 9112 9.6)."""
    try:
        with trio.move_on_after(limits.linger_s):
            await finish_sending(stream)
            left = limits.linger_bytes_max
            while left > 0 and (piece := await stream.receive_some(limits.read_bytes)):
                left -= len(piece)
    except BROKEN:
        return  # it did not want to hear it


def date() -> bytes:
    """The Date field of this second (RFC 9110 6.6.1); formatting it costs as much as a small answer."""
    return _date_of(int(time.time()))


@lru_cache(maxsize=2)
def _date_of(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
