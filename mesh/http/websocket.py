"""Serving an ASGI application over a WebSocket: one task reads and answers what the protocol owes, the application's
task sends; between them stands a queue with a bound, so that a client is held back by an application that is slow.

Source: ASGI 3.0, WebSocket 2.4, with its denial response; RFC 6455.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio

from mesh.http.connection import Exchange, send_bounded
from mesh.http.messages import PeerGone
from mesh.http.responses import BadAnswer, problem
from mesh.http.streams import BROKEN, ByteStream, finish_sending
from mesh.http.wsframes import (
    ABNORMAL,
    Closed,
    Received,
    WebSocketMachine,
    accept_headers,
    asks_for_websocket,
    handshake_fault,
    subprotocols,
)

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
READ_BYTES = 64 * 1024


async def serve_websocket(exchange: Exchange, application: Application, scope: MutableMapping[str, Any]) -> None:
    """Answer one upgrade request: refuse a wrong handshake, else let the application decide, then converse."""
    if await refused_handshake(exchange):
        return
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = subprotocols(exchange.request)
    scope["extensions"] = {**scope["extensions"], "websocket.http.response": {}}
    await _Conversation(exchange).run(application, scope)


async def refused_handshake(exchange: Exchange) -> bool:
    """Refuse a request that wants to become a WebSocket in the wrong way; False for any other."""
    if not asks_for_websocket(exchange.request) or not (fault := handshake_fault(exchange.request)):
        return False
    headers, body = problem(400, fault, code="protocol.websocket")
    await exchange.respond(400, [*headers, (b"sec-websocket-version", b"13")], body)
    return True


class _Conversation:
    """One application's WebSocket, from `websocket.connect` to its end."""

    def __init__(self, exchange: Exchange) -> None:
        limits = exchange.limits
        self._exchange = exchange
        self._limits = limits
        self._machine = WebSocketMachine(limits.websocket_message_bytes_max)
        self._stream: ByteStream | None = None
        self._sending = trio.Lock()
        self._queue: deque[Received] = deque()
        self._queued_bytes = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._accepted = trio.Event()
        self._over = trio.Event()
        self._connect_told = False
        self._closed_told: Closed | None = None
        self._denial: tuple[int, list[tuple[bytes, bytes]]] | None = None

    async def run(self, application: Application, scope: MutableMapping[str, Any]) -> None:
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            try:
                await application(scope, self._receive, self._send)
            except Exception as error:  # the edge of the application; told below, by the connection
                failure = error
            await self._part(1000 if failure is None else 1011)
            nursery.cancel_scope.cancel()
        if failure is not None and not self._over.is_set():
            raise failure

    async def _part(self, code: int) -> None:
        """After the application: refuse what it left open, or close and wait a moment for the other side's close."""
        exchange = self._exchange
        if self._stream is None:
            if not exchange.started and code == 1000:
                await exchange.respond(403, *problem(403, "this WebSocket was refused", code="refused"))
            return
        try:
            await self._transmit(self._machine.close(code))
            with trio.move_on_after(self._limits.websocket_close_s):
                await self._over.wait()
        except (PeerGone, *BROKEN):
            return

    async def _receive(self) -> Message:
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        while not self._queue:
            if self._closed_told is not None:
                return _disconnect(self._closed_told)
            await self._changed.park()
        received = self._queue.popleft()
        self._queued_bytes -= _size(received)
        self._changed.unpark_all()
        if isinstance(received, Closed):
            self._closed_told = received
            return _disconnect(received)
        if isinstance(received, str):
            return {"type": "websocket.receive", "text": received}
        return {"type": "websocket.receive", "bytes": received}

    async def _send(self, message: Message) -> None:
        try:
            await self._send_message(message)
        except BROKEN as error:
            raise PeerGone("the client left") from error

    async def _send_message(self, message: Message) -> None:
        kind = message["type"]
        if self._stream is None:
            await self._answer_handshake(kind, message)
        elif kind == "websocket.send":
            if not self._machine.may_send:
                raise PeerGone("the WebSocket is closed")
            text = message.get("text")
            content = text if text is not None else bytes(message["bytes"])
            await self._transmit(self._machine.message(content))
        elif kind == "websocket.close":
            await self._transmit(self._machine.close(message.get("code", 1000), message.get("reason") or ""))
        else:
            raise BadAnswer(f"the application sent {kind!r} in an open WebSocket")

    async def _answer_handshake(self, kind: str, message: Message) -> None:
        exchange = self._exchange
        if kind == "websocket.accept":
            headers = accept_headers(exchange.request)
            subprotocol = message.get("subprotocol")
            if subprotocol is not None:
                headers.append((b"sec-websocket-protocol", subprotocol.encode()))
            headers += [(bytes(name), bytes(value)) for name, value in message.get("headers") or ()]
            self._stream = await exchange.upgrade(headers)
            self._accepted.set()
        elif kind == "websocket.close":
            await exchange.respond(403, *problem(403, "this WebSocket was refused", code="refused"))
            self._queue.append(Closed(ABNORMAL, ""))
            self._changed.unpark_all()
        elif kind == "websocket.http.response.start":
            self._denial = (int(message["status"]), list(message.get("headers", ())))
        elif kind == "websocket.http.response.body" and (self._denial is not None or exchange.started):
            await self._deny(bytes(message.get("body", b"")), more=bool(message.get("more_body", False)))
        else:
            raise BadAnswer(f"the application sent {kind!r} before it accepted the WebSocket")

    async def _deny(self, body: bytes, *, more: bool) -> None:
        exchange = self._exchange
        if self._denial is not None:
            (status, headers), self._denial = self._denial, None
            await exchange.start(status, headers)
        if more:
            await exchange.send(body)
        else:
            await exchange.finish(body)

    async def _read(self) -> None:
        """Read until the conversation is over, at most a queue ahead of the application."""
        await self._accepted.wait()
        assert self._stream is not None
        try:
            while not self._machine.over:
                await self._wait_for_room()
                self._machine.receive(await self._next_piece(self._stream))
                self._enqueue(self._machine.take_received())
                await self._transmit(self._machine.take_outgoing())
            if not self._machine.may_send:  # after both closes; a client that only stopped sending may still read
                async with self._sending:
                    await finish_sending(self._stream)
        except (PeerGone, *BROKEN):
            self._machine.receive(b"")
            self._enqueue(self._machine.take_received())
        self._over.set()

    async def _next_piece(self, stream: ByteStream) -> bytes:
        """One read; a client that says nothing is pinged, and is gone when it doesn't answer that either."""
        for _ in range(2):
            with trio.move_on_after(self._limits.websocket_ping_s):
                return await stream.receive_some(READ_BYTES)
            if self._machine.may_send:
                await self._transmit(self._machine.ping())
        raise PeerGone("the client answers no ping")

    async def _wait_for_room(self) -> None:
        limits = self._limits
        while (
            len(self._queue) >= limits.websocket_queue_max or self._queued_bytes >= limits.websocket_message_bytes_max
        ):
            await self._changed.park()

    def _enqueue(self, received: list[Received]) -> None:
        self._queue.extend(received)
        self._queued_bytes += sum(map(_size, received))
        self._changed.unpark_all()

    async def _transmit(self, block: bytes) -> None:
        if not block:
            return
        assert self._stream is not None
        async with self._sending:
            await send_bounded(self._stream, block, self._limits)


def _size(received: Received) -> int:
    return 0 if isinstance(received, Closed) else len(received)


def _disconnect(closed: Closed) -> Message:
    return {"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason}
