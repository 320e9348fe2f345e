"""The HTTP/1.1 and WebSocket cases of shared/data/http-ws, each whole and byte by byte, on the server and through the
relay before it.

Format: SOURCES.md beside the data. A case of level MUST (or of our own policy) that fails is a bug; what is SHOULD or
MAY is held to as well, for the data allows every answer that the RFC allows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mesh.http.asgi import asgi_handler
from mesh.http.connection import Exchange, Handler
from mesh.http.forwarding import Address
from mesh.http.http1 import ResponseReader
from mesh.http.limits import HttpLimits
from mesh.http.messages import PeerGone, ResponseHead, Signal
from mesh.http.relay import Fate, RelayLimits, RequestBody, Upstream, relay
from mesh.http.server import HttpServer
from mesh.http.websocket import refused_handshake
from scheduler.ingress.local import open_loopback

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "http-ws"
if not DATA.is_dir():
    pytest.skip(f"SKIPPED conformance http-ws: no cases at {DATA}", allow_module_level=True)

LIMITS = HttpLimits(linger_s=0.5)
READER_LIMITS = HttpLimits()
RELAY_LIMITS = RelayLimits()
PAUSE_S = 0.01
"""Between the parts of a case: long enough for the server to have read the part and to wait for the next."""


def cases(name: str, *, kind: str | None = None) -> list[Any]:
    with (DATA / name).open() as file:
        return [pytest.param(case, id=case["id"]) for case in map(json.loads, file) if case.get("kind") == kind]


@dataclass(slots=True)
class Answer:
    head: ResponseHead
    length: int | None
    digest: str | None


@dataclass(slots=True)
class Told:
    """What came back: the answers, and whether the connection was closed after them."""

    answers: list[Answer]
    closed: bool


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body and tells its size and hash; echoes WebSocket messages."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        return
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    told = [(b"x-length", b"%d" % len(body)), (b"x-digest", hashlib.sha256(body).hexdigest().encode())]
    await send({"type": "http.response.start", "status": 200, "headers": told})
    await send({"type": "http.response.body", "body": b"served"})


def relaying_to(port: int) -> Handler:
    """A handler that passes every request to the server on a port, each over a connection of its own."""

    async def pass_on(exchange: Exchange) -> None:
        if await refused_handshake(exchange):
            return
        upstream = Upstream(await open_loopback(port, deadline=trio.current_time() + 5), RELAY_LIMITS)
        try:
            body = RequestBody(exchange)
            outcome = await relay(exchange, upstream, body, Address(exchange.request.target), RELAY_LIMITS)
            assert outcome.fate is Fate.SERVED, outcome
        finally:
            await upstream.aclose()

    return pass_on


async def listening(nursery: trio.Nursery, handler: Handler) -> int:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await nursery.start(HttpServer(handler, LIMITS).run, listeners)
    return int(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def connected(through: str) -> AsyncIterator[trio.SocketStream]:
    async with trio.open_nursery() as nursery:
        port = await listening(nursery, asgi_handler(echo))
        if through == "relay":
            port = await listening(nursery, relaying_to(port))
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            yield stream
        nursery.cancel_scope.cancel()


def every_way(test: Any) -> Any:
    """Whole and byte by byte, on the server and through the relay."""
    test = pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])(test)
    return pytest.mark.deadline(10)(pytest.mark.parametrize("through", ["server", "relay"])(test))


def parts_of(case: dict[str, Any], kind: str, *, bytewise: bool) -> list[bytes]:
    if f"{kind}_b64" in case:
        parts = [base64.b64decode(case[f"{kind}_b64"])]
    elif f"{kind}_zlib_b64" in case:
        parts = [zlib.decompress(base64.b64decode(case[f"{kind}_zlib_b64"]))]
    else:
        parts = [base64.b64decode(part) for part in case["parts_b64"]]
    if bytewise:
        whole = b"".join(parts)
        return [whole[at : at + 1] for at in range(len(whole))]
    return parts


async def transmit(
    stream: trio.SocketStream, parts: list[bytes], sent: trio.Event, *, half_close: bool = False
) -> None:
    """Send the parts; a server that has refused already may not be listening any more."""
    try:
        for at, part in enumerate(parts):
            if at and len(part) > 1:
                await trio.sleep(PAUSE_S)
            await stream.send_all(part)
        if half_close:
            await stream.send_eof()
    except trio.BrokenResourceError:
        return
    finally:
        sent.set()


async def collect(stream: trio.SocketStream, methods: list[str], count: int, *, to_the_end: bool) -> Told:
    """Read answers: as many as the case allows, or until the connection's end."""
    reader = ResponseReader(READER_LIMITS)
    answers: list[Answer] = []
    while to_the_end or len(answers) < count:
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        try:
            head = await next_head(stream, reader, method)
        except (PeerGone, trio.BrokenResourceError):
            return Told(answers, closed=True)
        if head is None:
            return Told(answers, closed=True)
        while (piece := reader.next_body()) is not Signal.END:
            if piece is Signal.NEED_DATA:
                reader.receive(await stream.receive_some(65536))
        length, digest = head.header(b"x-length"), head.header(b"x-digest")
        if head.status >= 200:
            answers.append(Answer(head, int(length) if length else None, digest.decode() if digest else None))
        if not head.keep_alive:
            to_the_end = True
    return Told(answers, closed=False)


async def next_head(stream: trio.SocketStream, reader: ResponseReader, method: str) -> ResponseHead | None:
    while True:
        head = reader.next_response(method)
        if isinstance(head, ResponseHead):
            return head
        if head is Signal.CLOSED:
            return None
        reader.receive(await stream.receive_some(65536))


def check_served(case: dict[str, Any], answers: list[Answer]) -> None:
    assert all(answer.head.status < 400 for answer in answers), [answer.head.status for answer in answers]
    for at, answer in enumerate(answers):
        if at < len(case.get("body_lengths", ())):
            assert answer.length == case["body_lengths"][at]
            assert answer.digest == case["bodies_sha256"][at]


async def is_open(stream: trio.SocketStream) -> bool:
    """Does the connection take another request?"""
    await transmit(stream, [b"GET /again HTTP/1.1\r\nHost: example.test\r\n\r\n"], trio.Event())
    told = await collect(stream, ["GET"], 1, to_the_end=False)
    return bool(told.answers)


@every_way
@pytest.mark.parametrize("case", cases("http1-cases.jsonl"))
async def test_http1_case_is_answered_as_the_rfc_says(case: dict[str, Any], bytewise: bool, through: str) -> None:
    expect = case["expect"]
    count = case["max_responses"]
    to_the_end = expect in ("reject", "close") or bool(case.get("close_after")) or "canary" in case
    sent = trio.Event()
    async with connected(through) as stream, trio.open_nursery() as nursery:
        parts = parts_of(case, "request", bytewise=bytewise)
        nursery.start_soon(lambda: transmit(stream, parts, sent, half_close=bool(case.get("half_close"))))
        told = await collect(stream, case.get("methods", []), count, to_the_end=to_the_end)
        nursery.cancel_scope.cancel()
        served = [answer for answer in told.answers if answer.head.status < 400]
        assert len(told.answers) <= max(count, 1)
        if expect == "accept":
            assert len(served) == count
            check_served(case, told.answers)
            if case.get("close_after") is False:
                await sent.wait()
                assert await is_open(stream)
        elif expect in ("reject", "close"):
            assert not served and told.closed
        elif served:
            check_served(case, served)
        refused = [answer.head.status for answer in told.answers if answer.head.status >= 400]
        assert all(status in case.get("statuses", [400]) for status in refused), refused
        if "canary" in case:
            assert len(served) <= 1 and told.closed


@every_way
@pytest.mark.parametrize("case", cases("websocket-cases.jsonl", kind="handshake"))
async def test_websocket_handshake_is_answered_as_the_rfc_says(
    case: dict[str, Any], bytewise: bool, through: str
) -> None:
    async with connected(through) as stream:
        await transmit(stream, parts_of(case, "request", bytewise=bytewise), trio.Event())
        head = await next_head(stream, ResponseReader(READER_LIMITS), "GET")
        assert head is not None
        assert head.status in case["statuses"]
        if "accept_header" in case:
            assert head.header(b"sec-websocket-accept") == case["accept_header"].encode()
        for name in case.get("must_not", ()):
            assert head.header(name.encode()) is None
        if case.get("must_not_other_protocol"):
            assert head.header(b"sec-websocket-protocol") in (None, b"chat", b"superchat")


HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: example.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(slots=True)
class Frame:
    opcode: int
    payload: bytes


class Frames:
    """A plain reader of a server's frames: unmasked, no fragments (our server sends none)."""

    def __init__(self, stream: trio.SocketStream, first: bytes) -> None:
        self._stream = stream
        self._held = first

    async def next(self) -> Frame | None:
        """The next frame, None at the connection's end."""
        try:
            first, second = await self._take(2)
            assert first & 0x80 and not first & 0x70 and not second & 0x80
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(await self._take(2 if length == 126 else 8), "big")
            return Frame(first & 0x0F, await self._take(length))
        except (EOFError, trio.BrokenResourceError):
            return None

    async def _take(self, count: int) -> bytes:
        while len(self._held) < count:
            piece = await self._stream.receive_some(65536)
            if not piece:
                raise EOFError
            self._held += piece
        taken, self._held = self._held[:count], self._held[count:]
        return taken


async def expect_echo(frames: Frames, case: dict[str, Any]) -> None:
    """Echoes and pongs come, each kind in its order."""
    echoes = list(case.get("echo", ()))
    pongs = [base64.b64decode(pong) for pong in case.get("pongs_b64", ())]
    while echoes or pongs:
        frame = await frames.next()
        assert frame is not None, "the connection ended before everything was echoed"
        if frame.opcode == 10:
            assert frame.payload == pongs.pop(0)
            continue
        wanted = echoes.pop(0)
        assert frame.opcode == {"text": 1, "binary": 2}[wanted["op"]]
        assert (len(frame.payload), hashlib.sha256(frame.payload).hexdigest()) == (wanted["length"], wanted["sha256"])


async def close_codes(frames: Frames) -> tuple[list[int | None], bool]:
    """The codes of the close frames that come until the connection's end, and whether anything else came."""
    codes: list[int | None] = []
    other = False
    while (frame := await frames.next()) is not None:
        if frame.opcode == 8:
            codes.append(int.from_bytes(frame.payload[:2], "big") if frame.payload else None)
        else:
            other = True
    return codes, other


@every_way
@pytest.mark.parametrize("case", cases("websocket-cases.jsonl", kind="frames"))
async def test_websocket_frames_are_answered_as_the_rfc_says(
    case: dict[str, Any], bytewise: bool, through: str
) -> None:
    large = case.get("frames_length", 0) > 10_000
    sent = trio.Event()
    async with connected(through) as stream, trio.open_nursery() as nursery:
        await stream.send_all(HANDSHAKE)
        reader = ResponseReader(READER_LIMITS)
        head = await next_head(stream, reader, "GET")
        assert head is not None and head.status == 101
        frames = Frames(stream, reader.take_rest())
        parts = parts_of(case, "frames", bytewise=bytewise and not large)
        nursery.start_soon(lambda: transmit(stream, parts, sent, half_close=bool(case.get("half_close"))))
        if case["expect"] == "ok":
            await expect_echo(frames, case)
            if "then_send_b64" in case:
                await sent.wait()
                await transmit(stream, [base64.b64decode(case["then_send_b64"])], trio.Event())
        codes, other = await close_codes(frames)
        nursery.cancel_scope.cancel()
        if case["expect"] == "ok":
            assert not other, "something came after the close was due"
            assert len(codes) <= 1
            assert (codes[0] if codes else None) in case["close_codes"]
        else:
            assert all(code in case["close_codes"] for code in codes), codes
