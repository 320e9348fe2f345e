"""Hosting an ASGI 3 application (Starlette, or any other) on this engine.

What the application reads it reads from the client at its own pace, and what it sends waits for the client: nothing
is queued in between. A small answer goes out as one write. Lifespan isn't spoken: the daemon wires its own life.

Source: the ASGI 3.0 specification, HTTP and WebSocket 2.4; `extensions["freecloud.peer"]` is ours: pid, uid and gid
of a unix socket's other end (rule H2).
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import trio

from mesh.http.connection import Exchange, Handler
from mesh.http.limits import DEFAULT_LIMITS, HttpLimits
from mesh.http.messages import PeerGone
from mesh.http.responses import BadAnswer
from mesh.http.server import HttpServer
from mesh.http.streams import BROKEN
from mesh.http.websocket import serve_websocket
from mesh.http.wsframes import asks_for_websocket

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

VERSIONS = {"version": "3.0", "spec_version": "2.4"}


async def serve_asgi(
    application: Application,
    listeners: Sequence[trio.SocketListener],
    *,
    limits: HttpLimits = DEFAULT_LIMITS,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application until cancelled or drained; started with the server, for its `drain` and `statistics`."""
    server = HttpServer(asgi_handler(application), limits, tls=tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, listeners)
        task_status.started(server)


def asgi_handler(application: Application) -> Handler:
    """A handler that answers each request by the application."""

    async def handle(exchange: Exchange) -> None:
        scope = scope_of(exchange)
        if asks_for_websocket(exchange.request):
            await serve_websocket(exchange, application, scope)
            return
        cycle = _Cycle(exchange)
        await application(scope, cycle.receive, cycle.send)
        if exchange.started and not exchange.finished:
            raise BadAnswer("the application ended before its answer did")

    return handle


def scope_of(exchange: Exchange) -> Scope:
    """The connection scope of an HTTP request."""
    request, endpoints = exchange.request, exchange.endpoints
    peer = endpoints.peer
    extensions = {} if peer is None else {"freecloud.peer": {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid}}
    return {
        "type": "http",
        "asgi": VERSIONS,
        "http_version": "1.0" if request.http_1_0 else "1.1",
        "method": request.method,
        "scheme": endpoints.scheme,
        "path": unquote_to_bytes(request.path).decode("utf-8", "replace"),
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": endpoints.client,
        "server": endpoints.server,
        "state": {},
        "extensions": extensions,
    }


class _Cycle:
    """One request's receive and send."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._body_told = False

    async def receive(self) -> Message:
        """`http.request` until the body has been told, then `http.disconnect` once the client left or is answered."""
        exchange = self._exchange
        if exchange.finished:
            return {"type": "http.disconnect"}
        try:
            if self._body_told:
                await exchange.wait_disconnect()
                return {"type": "http.disconnect"}
            piece = await exchange.receive()
        except (PeerGone, *BROKEN):
            return {"type": "http.disconnect"}
        self._body_told = exchange.body_complete or not piece
        return {"type": "http.request", "body": piece, "more_body": not self._body_told}

    async def send(self, message: Message) -> None:
        """`http.response.start`, kept until its first piece; `http.response.body`.

        Raises:
            PeerGone: The client left; an OSError, as the specification asks.
        """
        exchange = self._exchange
        kind = message["type"]
        if kind == "http.response.start" and self._head is None and not exchange.started:
            self._head = (int(message["status"]), list(message.get("headers", ())))
            return
        if kind != "http.response.body" or exchange.finished or not (self._head or exchange.started):
            raise BadAnswer(f"the application sent {kind!r} where none can be")
        try:
            await self._send_body(bytes(message.get("body", b"")), more=bool(message.get("more_body", False)))
        except BROKEN as error:
            raise PeerGone("the client left") from error

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        exchange = self._exchange
        if self._head is not None:
            (status, headers), self._head = self._head, None
            if not more:
                await exchange.respond(status, headers, body)
            else:
                await exchange.start(status, headers, body)
        elif more:
            await exchange.send(body)
        else:
            await exchange.finish(body)
