"""The caller's side of RPC over one link: a call, a stream of answers, a tunnel.

Innocent ways to get no answer are told apart, because callers must act differently: nothing was sent
(`UnreachableError`: try elsewhere), it was sent and the link went (`OutcomeUnknown`: it may have happened), the
time ran out (`DeadlineError`; once sent, it may have happened too), or the peer failed (its own error).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, NoReturn

import trio

from mesh.errors import (
    DeadlineError,
    ExhaustedError,
    FailedError,
    FreecloudError,
    OutcomeUnknown,
    ProtocolError,
    UnreachableError,
)
from mesh.lanes import Lane
from mesh.link import Link
from mesh.link_streams import MuxStream, StreamBroken
from mesh.mux_events import ResetReason
from mesh.rpc import (
    ANSWER,
    FAILURE,
    RPC,
    Call,
    Method,
    OpenTunnel,
    RequestT,
    ResponseT,
    rebuilt,
    remaining_ms,
)
from mesh.tunnel import RemoteTunnel

FAILURE_BYTES_MAX = 4096

MAYBE = "it may or may not have happened"


class LinkWentAway(Exception):
    """The link closed before the call was put on it; nothing was sent."""


async def call_on(
    link: Link, method: Method[RequestT, ResponseT], request: RequestT, deadline: float
) -> ResponseT:
    """One unary call.

    Raises:
        LinkWentAway: Nothing was sent; another link may do.
        DeadlineError: No answer in time.
        OutcomeUnknown: Sent, and the link was lost.
        FreecloudError: What the handler raised.
    """
    payload = method.codec.encode(request)
    with trio.move_on_at(deadline):
        async with _stream(
            link, method.lane, RPC.encode(Call(method.name, remaining_ms(deadline)))
        ) as stream:
            try:
                await stream.send(payload, end=True)
                reply = await stream.receive(max(method.message_bytes_max, FAILURE_BYTES_MAX))
            except StreamBroken as broken:
                _explain(broken, stream, method.name)
            if reply is None:
                raise ProtocolError(f"{method.name} ended without an answer")
            return _answer_in(method, reply)
    raise DeadlineError(f"{method.name} was not answered in time")


class Answers(Generic[ResponseT]):
    """The answers of a streaming call, in order; an async iterator that ends with them or raises like a call."""

    def __init__(self, stream: MuxStream, method: Method[Any, ResponseT], deadline: float) -> None:
        self._stream = stream
        self._method = method
        self._deadline = deadline

    def __aiter__(self) -> Answers[ResponseT]:
        return self

    async def __anext__(self) -> ResponseT:
        with trio.move_on_at(self._deadline):
            try:
                reply = await self._stream.receive(max(self._method.message_bytes_max, FAILURE_BYTES_MAX))
            except StreamBroken as broken:
                _explain(broken, self._stream, self._method.name)
            if reply is None:
                raise StopAsyncIteration
            return _answer_in(self._method, reply)
        raise DeadlineError(f"{self._method.name} did not finish in time")


@asynccontextmanager
async def stream_on(
    link: Link, method: Method[RequestT, ResponseT], request: RequestT, deadline: float
) -> AsyncIterator[Answers[ResponseT]]:
    """A streaming call; leaving the block cancels what is still running of it.

    Raises:
        LinkWentAway: Nothing was sent; another link may do.
    """
    payload = method.codec.encode(request)
    header = RPC.encode(Call(method.name, remaining_ms(deadline)))
    async with _stream(link, method.lane, header, deadline) as stream:
        try:
            await stream.send(payload, end=True)
        except StreamBroken as broken:
            _explain(broken, stream, method.name)
        yield Answers(stream, method, deadline)


async def tunnel_on(link: Link, kind: str, header: bytes, deadline: float) -> RemoteTunnel:
    """An open tunnel; the deadline is for the opening alone.

    Raises:
        LinkWentAway: Nothing was sent; another link may do.
        DeadlineError: The other end did not accept in time.
        FreecloudError: Why it refused.
    """
    opening = RPC.encode(OpenTunnel(kind, header, remaining_ms(deadline)))
    with trio.move_on_at(deadline):
        await link.acquire(Lane.BULK)
        try:
            if not link.open:
                raise LinkWentAway
            stream = link.open_stream(Lane.BULK, opening)
        except BaseException:
            link.release(Lane.BULK)
            raise
        stream.on_closed = lambda: link.release(Lane.BULK)
        try:
            reply = await stream.receive(FAILURE_BYTES_MAX)
            if reply is None or reply[:1] not in (ANSWER, FAILURE):
                raise ProtocolError(f"the tunnel {kind!r} was answered wrongly")
            if reply[:1] == FAILURE:
                raise rebuilt(reply[1:])
        except StreamBroken as broken:
            stream.reset(ResetReason.CANCELLED)
            _explain(broken, stream, f"the tunnel {kind!r}")
        except BaseException:
            stream.reset(ResetReason.CANCELLED)
            raise
        return RemoteTunnel(stream)
    raise DeadlineError(f"the tunnel {kind!r} was not accepted in time")


@asynccontextmanager
async def _stream(
    link: Link, lane: Lane, header: bytes, deadline: float = float("inf")
) -> AsyncIterator[MuxStream]:
    with trio.move_on_at(deadline) as waiting:
        await link.acquire(lane)
    if waiting.cancelled_caught:
        raise DeadlineError("too many calls wait for this peer")
    try:
        if not link.open:
            raise LinkWentAway
        stream = link.open_stream(lane, header)
        try:
            yield stream
        except BaseException:
            stream.reset(ResetReason.CANCELLED)
            raise
        finally:
            stream.close()
    finally:
        link.release(lane)


def _answer_in(method: Method[Any, ResponseT], reply: bytes) -> ResponseT:
    match reply[:1]:
        case b"\0":
            return method.decode_response(reply[1:])
        case b"\1":
            raise rebuilt(reply[1:])
        case _:
            raise ProtocolError(f"{method.name} was answered wrongly")


def _explain(broken: StreamBroken, stream: MuxStream, what: str) -> NoReturn:
    raise _explanation(broken, stream.was_sent(), what) from broken


def _explanation(broken: StreamBroken, was_sent: bool, what: str) -> FreecloudError:
    match broken.reason:
        case None if was_sent:
            return OutcomeUnknown(f"{what} was sent and not answered: {broken.why}", why=MAYBE)
        case None:
            return UnreachableError(f"{what} was not sent", why=broken.why)
        case ResetReason.LIMIT:
            return ExhaustedError(
                f"{what} met a limit of the link", why="too many calls, or too large a message"
            )
        case ResetReason.CANCELLED:
            return OutcomeUnknown(f"the peer gave {what} up", why=MAYBE)
        case ResetReason.FAILED:
            return FailedError(f"{what} failed at the peer")
        case _:
            return ProtocolError(f"{what} broke the protocol", why=broken.why)
