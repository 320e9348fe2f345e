"""One request to an upstream and its response back, streamed both ways and written anew in both directions.

What is passed on was parsed here and is framed here, so that no two parsers ever see the same bytes (attack 26). The
pace of the slower side is the pace of both: nothing is queued beyond one piece. Who is asked, and what to do when it
fails, is the caller's business; it gets an `Outcome` that says how far things went.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import trio

from mesh.http.connection import Exchange
from mesh.http.forwarding import Address, downstream_headers, passes_upgrade, upgrade_headers, upstream_head
from mesh.http.http1 import ResponseReader
from mesh.http.limits import DEFAULT_LIMITS, HttpLimits
from mesh.http.messages import Framing, HttpRefused, PeerGone, ResponseHead, Signal
from mesh.http.streams import BROKEN, ByteStream, finish_sending, receive_until, send_within

REPLAY_BYTES_MAX = 64 * 1024
"""Never more of a body is kept to be sent again (rule A4)."""

CLOSE_S = 2.0

WATCH_AFTER_S = 1.0
"""A read from an upstream that takes longer is worth a task that looks whether the client still waits: clients that
give up would otherwise fill an app that hangs with requests that nobody waits for."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How long an upstream is waited for; source: nginx's proxy_read_timeout, 60 s, and more where silence is usual."""

    answer_s: float = 60.0  # from the request's end to the response's head
    idle_s: float = 300.0  # between two pieces of a response: event streams are silent for long
    upgraded_idle_s: float = 3600.0  # in a WebSocket, both ways
    http: HttpLimits = DEFAULT_LIMITS


class Fate(Enum):
    """How a relayed request ended, told by how far it came."""

    SERVED = "served"
    NO_ANSWER = "no-answer"  # written, at least in part, and not a byte came back
    TIMED_OUT = "timed-out"  # not a byte came back in `answer_s`
    BAD_ANSWER = "bad-answer"  # what came back is no response; nothing of it was passed on
    BROKEN = "broken"  # the response had begun and did not end; the client sees it torn


@dataclass(slots=True)
class Outcome:
    """What came of one try at one upstream."""

    fate: Fate
    status: int = 0
    bytes_sent: int = 0  # of the body, to the client
    answered_s: float = 0.0  # from the first byte written to the response's head
    upgraded: bool = False
    detail: str = ""


class RequestBody:
    """A request's body for one or more tries: what was read is kept for the next, up to REPLAY_BYTES_MAX."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self.replayable = True
        self.complete = exchange.body_complete

    @property
    def small(self) -> bool:
        """Is it known to be no larger than what is kept? Then it is read whole before the upstream sees any."""
        request = self._exchange.request
        return request.framing is Framing.NONE or (
            request.framing is Framing.LENGTH and request.content_length <= REPLAY_BYTES_MAX
        )

    async def whole(self) -> bytes:
        """All of a small body."""
        while not self.complete:
            await self.next()
        return b"".join(self._kept)

    def kept(self) -> list[bytes]:
        """What earlier tries have read, to be sent first."""
        assert self.replayable, "a body that was not kept cannot be sent again"
        return list(self._kept)

    async def next(self) -> bytes:
        """The next piece that nobody has read, b"" after the last.

        Raises:
            HttpRefused, PeerGone: The client's fault; not the upstream's, and not to be retried.
        """
        piece = b"" if self.complete else await self._exchange.receive()
        if not piece:
            self.complete = True
            return b""
        self._kept_bytes += len(piece)
        if self._kept_bytes > REPLAY_BYTES_MAX:
            self.replayable, self._kept = False, []
        elif self.replayable:
            self._kept.append(piece)
        return piece


class Upstream:
    """One connection to an upstream, for one request after the other."""

    def __init__(self, stream: ByteStream, limits: RelayLimits) -> None:
        self.stream = stream
        self.reader = ResponseReader(limits.http)
        self.requests = 0
        self.idle_since = 0.0
        self.reusable = True

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await self.stream.aclose()


class UpstreamFailed(Exception):
    """Inside this module: the try is over, and why."""

    def __init__(self, fate: Fate, detail: str) -> None:
        super().__init__(detail)
        self.fate = fate
        self.detail = detail


async def relay(
    exchange: Exchange, upstream: Upstream, body: RequestBody, address: Address, limits: RelayLimits
) -> Outcome:
    """Send the exchange's request to the upstream and its response to the client.

    Afterwards `upstream.reusable` says whether it may take another request; one that answered before the request
    was all sent may not, for nobody knows where it thinks that the next one begins.

    Raises:
        HttpRefused: The client's request is broken; the edge answers it.
        PeerGone: The client left.
    """
    relaying = _Relaying(exchange, upstream, body, limits)
    upstream.reusable = False
    upstream.requests += 1
    try:
        await relaying.run(address)
    except UpstreamFailed as error:
        relaying.outcome.fate = Fate.BROKEN if exchange.started else error.fate
        relaying.outcome.detail = error.detail
    return relaying.outcome


class _Relaying:
    """The two directions of one try."""

    def __init__(self, exchange: Exchange, upstream: Upstream, body: RequestBody, limits: RelayLimits) -> None:
        self._exchange = exchange
        self._upstream = upstream
        self._reader = upstream.reader
        self._body = body
        self._limits = limits
        self._began = trio.current_time()
        self._all_sent = False
        self._client_fault: HttpRefused | PeerGone | None = None
        self.outcome = Outcome(Fate.SERVED)

    async def run(self, address: Address) -> None:
        request = self._exchange.request
        if self._body.small:
            content = await self._body.whole()
            framing = Framing.LENGTH if content else Framing.NONE
            head = upstream_head(request, self._exchange.endpoints, address, (framing, len(content)))
            self._began = trio.current_time()
            await self._send(head + content)
            self._all_sent = True
            await self._answer()
        else:
            size = request.content_length
            head = upstream_head(request, self._exchange.endpoints, address, (request.framing, size))
            await self._both_ways(head)
        self._upstream.reusable = (
            self._all_sent
            and not self.outcome.upgraded
            and self._reader.complete
            and not self._reader.ended
            and not self._reader.unread
            and self._keep_alive
        )

    async def _both_ways(self, head: bytes) -> None:
        failure: UpstreamFailed | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_body, head, nursery.cancel_scope)
            try:
                await self._answer()
            except UpstreamFailed as error:
                failure = error
            except PeerGone as error:
                self._client_fault = error
            except BROKEN as error:
                self._client_fault = PeerGone(str(error))
            nursery.cancel_scope.cancel()
        if self._client_fault is not None:
            raise self._client_fault
        if failure is not None:
            raise failure

    async def _send_body(self, head: bytes, scope: trio.CancelScope) -> None:
        """The request to the upstream, beside its answer. A client that fails ends both; an upstream that takes no
        more may have answered already, so that is left to the other direction to find out."""
        chunked = self._exchange.request.framing is Framing.CHUNKED
        kept = self._body.kept()
        try:
            await self._send(head + b"".join(_framed(piece, chunked) for piece in kept))
            while piece := await self._body.next():
                await self._send(_framed(piece, chunked))
            if chunked:
                await self._send(b"0\r\n\r\n")
            self._all_sent = True
        except (HttpRefused, PeerGone) as error:
            self._client_fault = error
            scope.cancel()
        except BROKEN as error:
            self._client_fault = PeerGone(str(error))
            scope.cancel()
        except UpstreamFailed:
            return

    async def _answer(self) -> None:
        exchange = self._exchange
        head = await self._next_head()
        self.outcome.status = head.status
        self.outcome.answered_s = trio.current_time() - self._began
        self._keep_alive = head.keep_alive
        if head.status == 101:
            await self._converse(head)
            return
        headers = downstream_headers(head)
        first = self._reader.next_body()
        if first is Signal.NEED_DATA:
            await exchange.start(head.status, headers)
        elif self._reader.complete:
            content = first if isinstance(first, bytes) else b""
            self.outcome.bytes_sent = len(content)
            await exchange.respond(head.status, headers, content)
            return
        elif isinstance(first, bytes):
            self.outcome.bytes_sent = len(first)
            await exchange.start(head.status, headers, first)
        await self._stream_body()

    async def _stream_body(self) -> None:
        while True:
            try:
                piece = self._reader.next_body()
            except (HttpRefused, PeerGone) as error:
                raise UpstreamFailed(Fate.BROKEN, str(error)) from error
            if piece is Signal.END:
                await self._exchange.finish()
                return
            if isinstance(piece, bytes):
                self.outcome.bytes_sent += len(piece)
                await self._exchange.send(piece)
            else:
                await self._fill(trio.current_time() + self._limits.idle_s)

    async def _next_head(self) -> ResponseHead:
        """The final head; informational ones are the relay's own to send, so the upstream's end here."""
        method = self._exchange.request.method
        deadline: float | None = None
        while True:
            try:
                head = self._reader.next_response(method)
            except (HttpRefused, PeerGone) as error:
                raise UpstreamFailed(Fate.BAD_ANSWER, str(error)) from error
            if isinstance(head, ResponseHead):
                if head.status == 101 and not passes_upgrade(self._exchange.request):
                    raise UpstreamFailed(Fate.BAD_ANSWER, "it switched protocols unasked")
                if head.status >= 200 or head.status == 101:
                    return head
            elif head is Signal.CLOSED:
                raise UpstreamFailed(Fate.NO_ANSWER, "it closed the connection without an answer")
            else:
                if deadline is None:
                    deadline = trio.current_time() + self._limits.answer_s
                await self._fill(deadline)

    async def _fill(self, deadline: float) -> None:
        """One read from the upstream; one that takes long is given up as soon as the client is."""
        failure = await self._read(min(deadline, trio.current_time() + WATCH_AFTER_S))
        if failure is not None and failure.fate is Fate.TIMED_OUT and trio.current_time() < deadline:
            failure = await (self._read_watching(deadline) if self._all_sent else self._read(deadline))
        if failure is not None:
            raise failure

    async def _read(self, deadline: float) -> UpstreamFailed | None:
        try:
            piece = await receive_until(self._upstream.stream, self._limits.http.read_bytes, deadline)
        except BROKEN as error:
            fate = Fate.BAD_ANSWER if self._reader.unread else Fate.NO_ANSWER
            return UpstreamFailed(fate, str(error) or "it reset the connection")
        if piece is None:
            return UpstreamFailed(Fate.TIMED_OUT, "it did not answer in time")
        self._reader.receive(bytes(piece))
        return None

    async def _read_watching(self, deadline: float) -> UpstreamFailed | None:
        client_left = False

        async def watch(scope: trio.CancelScope) -> None:
            nonlocal client_left
            await self._exchange.wait_disconnect()
            client_left = True
            scope.cancel()

        failure: UpstreamFailed | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            failure = await self._read(deadline)
            nursery.cancel_scope.cancel()
        if client_left:
            raise PeerGone("the client left before it was answered")
        return failure

    async def _send(self, block: bytes) -> None:
        try:
            taken = await send_within(self._upstream.stream, block, self._limits.answer_s)
        except BROKEN as error:
            if self._body.small:
                return  # it may have answered before it closed: the answer is looked for first
            raise UpstreamFailed(Fate.NO_ANSWER, str(error)) from error
        if not taken:
            raise UpstreamFailed(Fate.TIMED_OUT, "it does not take the request")

    async def _converse(self, head: ResponseHead) -> None:
        """Bytes both ways after a 101, until both sides have finished."""
        self.outcome.upgraded = True
        client = await self._exchange.upgrade(upgrade_headers(head))
        first = self._reader.take_rest()
        idle = _Idle(self._limits.upgraded_idle_s)
        with idle.scope:
            try:
                if first:
                    await client.send_all(first)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_pump, client, self._upstream.stream, idle, nursery.cancel_scope)
                    nursery.start_soon(_pump, self._upstream.stream, client, idle, nursery.cancel_scope)
            except BROKEN:
                return


class _Idle:
    """One deadline for both directions, moved on by every byte."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self.scope = trio.CancelScope(deadline=trio.current_time() + idle_s)

    def moved(self) -> None:
        self.scope.deadline = trio.current_time() + self._idle_s


async def _pump(source: ByteStream, sink: ByteStream, idle: _Idle, both: trio.CancelScope) -> None:
    """Carry one direction to its end; a side that breaks ends both."""
    try:
        while piece := await source.receive_some(64 * 1024):
            idle.moved()
            await sink.send_all(bytes(piece))
        await finish_sending(sink)
    except BROKEN:
        both.cancel()


def _framed(piece: bytes, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
