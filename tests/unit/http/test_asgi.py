"""Hosting ASGI applications: ours by hand, Starlette for real, and WebSockets."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mesh.http.asgi import asgi_handler
from mesh.http.limits import HttpLimits
from mesh.http.messages import PeerGone
from tests.unit.http.served import END, Wire, wire_to

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OPEN = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A client's frame, masked with zeros."""
    assert len(payload) < 126
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


async def read_frame(wire: Wire) -> tuple[int, bytes]:
    async def take(count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            piece = await wire.receive(count - len(taken))
            assert piece, "the connection ended"
            taken += piece
        return taken

    first, second = await take(2)
    length = second
    if second == 126:
        (length,) = struct.unpack("!H", await take(2))
    return first & 0x0F, await take(length)


@pytest.mark.autojump
async def test_starlette_reads_and_answers() -> None:
    async def shout(request: Request) -> PlainTextResponse:
        text = (await request.body()).decode()
        return PlainTextResponse(f"{request.path_params['name']} {request.query_params['q']} {text.upper()}")

    app = Starlette(routes=[Route("/say/{name}", shout, methods=["POST"])])
    async with wire_to(asgi_handler(app)) as wire:
        await wire.send(b"POST /say/a%20b?q=%C3%A9 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
        assert (await wire.receive_until(b"HI")).endswith("a b é HI".encode())


@pytest.mark.autojump
async def test_starlette_streams_at_the_clients_pace() -> None:
    sent: list[int] = []

    async def count(request: Request) -> StreamingResponse:
        async def numbers() -> Any:
            for number in range(1000):
                sent.append(number)
                yield b"%d\n" % number

        return StreamingResponse(numbers())

    app = Starlette(routes=[Route("/", count)])
    async with wire_to(asgi_handler(app), lockstep=True) as wire:
        await wire.send(GET)
        await wire.receive(16)
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) < 3


@pytest.mark.autojump
async def test_an_application_learns_that_its_client_left() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        told.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(PeerGone):
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        told.append("gone")
        raise PeerGone

    async with wire_to(asgi_handler(app)) as wire:
        await wire.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await wire.stream.aclose()
        await wire.ended.wait()
    assert told == ["http.disconnect", "gone"]


@pytest.mark.autojump
async def test_a_broken_body_is_refused_even_when_the_application_says_all_is_well() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        finally:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})

    async with wire_to(asgi_handler(app)) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        assert (await wire.receive_to_end()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.autojump
async def test_an_application_that_never_answers_is_answered_for() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    async with wire_to(asgi_handler(app)) as wire:
        await wire.send(GET)
        assert (await wire.receive_to_end()).startswith(b"HTTP/1.1 500 ")


async def echo_socket(socket: WebSocket) -> None:
    await socket.accept(subprotocol=socket.scope["subprotocols"][0] if socket.scope["subprotocols"] else None)
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


SOCKETS = Starlette(routes=[WebSocketRoute("/ws", echo_socket)])


@pytest.mark.autojump
async def test_starlette_converses_over_a_websocket_and_both_sides_close() -> None:
    async with wire_to(asgi_handler(SOCKETS)) as wire:
        await wire.send(OPEN + frame(1, b"hello") + frame(9, b"p"))
        assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in await wire.receive_until(END)
        assert sorted([await read_frame(wire), await read_frame(wire)]) == [(1, b"hello"), (10, b"p")]
        await wire.send(frame(8, b"\x03\xe8"))
        assert await read_frame(wire) == (8, b"\x03\xe8")
        assert await wire.receive_to_end() == b""


@pytest.mark.autojump
async def test_an_application_may_refuse_a_websocket() -> None:
    async def refuse(socket: WebSocket) -> None:
        await socket.close()

    async def deny(socket: WebSocket) -> None:
        await socket.send_denial_response(PlainTextResponse("why", status_code=401))

    for endpoint, status in ((refuse, b"403"), (deny, b"401")):
        app = Starlette(routes=[WebSocketRoute("/ws", endpoint)])
        async with wire_to(asgi_handler(app)) as wire:
            await wire.send(OPEN)
            assert (await wire.receive()).startswith(b"HTTP/1.1 " + status)


@pytest.mark.autojump
async def test_a_silent_websocket_is_pinged_and_given_up_without_an_answer() -> None:
    async with wire_to(asgi_handler(SOCKETS), HttpLimits(websocket_ping_s=30)) as wire:
        await wire.send(OPEN)
        await wire.receive_until(END)
        began = trio.current_time()
        assert (await read_frame(wire))[0] == 9
        await wire.send(frame(10))
        assert (await read_frame(wire))[0] == 9
        await wire.ended.wait()
        assert trio.current_time() - began == pytest.approx(90, abs=6)


@pytest.mark.autojump
async def test_a_slow_application_holds_a_websocket_client_back() -> None:
    async def deaf(socket: WebSocket) -> None:
        await socket.accept()
        await trio.sleep_forever()

    app = Starlette(routes=[WebSocketRoute("/ws", deaf)])
    async with wire_to(asgi_handler(app), lockstep=True) as wire:
        with trio.move_on_after(1):
            await wire.send(OPEN)
        await wire.receive_until(END)
        sent = 0
        with trio.move_on_after(1) as blocked:
            while sent < 1000:
                await wire.send(frame(1, b"x"))
                sent += 1
        assert blocked.cancelled_caught and 64 <= sent < 70


@pytest.mark.autojump
async def test_a_message_over_the_limit_closes_with_1009() -> None:
    async with wire_to(asgi_handler(SOCKETS), HttpLimits(websocket_message_bytes_max=100)) as wire:
        await wire.send(OPEN)
        await wire.receive_until(END)
        half = bytes([0x80 | 60]) + bytes(4) + b"x" * 60
        await wire.send(b"\x01" + half + b"\x80" + half)
        opcode, payload = await read_frame(wire)
        assert (opcode, payload[:2]) == (8, struct.pack("!H", 1009))


@pytest.mark.autojump
async def test_an_application_that_fails_closes_its_websocket_with_1011() -> None:
    async def fail(socket: WebSocket) -> None:
        await socket.accept()
        raise RuntimeError("told to")

    app = Starlette(routes=[WebSocketRoute("/ws", fail)])
    async with wire_to(asgi_handler(app)) as wire:
        await wire.send(OPEN)
        await wire.receive_until(END)
        opcode, payload = await read_frame(wire)
        assert (opcode, payload[:2]) == (8, struct.pack("!H", 1011))
