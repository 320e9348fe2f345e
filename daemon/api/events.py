"""`/v1/events`: what happened and what happens, as JSON lines or over a WebSocket."""

from __future__ import annotations

import functools
import json
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Receive, Send

from daemon.api.answers import LINES, Emit, Lines, when
from daemon.api.operations import Call, Operation
from daemon.events import Event
from daemon.services import Services


async def get_events(call: Call) -> Response:
    follow = call.query("follow") == "1"
    return Lines(functools.partial(_tell, call.services, follow))


async def _tell(services: Services, follow: bool, emit: Emit) -> None:
    with services.events.listen() as channel:
        for event in services.events.kept():
            await emit(event_document(event))
        if follow:
            async for event in channel:
                await emit(event_document(event))
            await emit({"at": "", "kind": "lagged", "text": "this listener did not keep up", "sequence": -1})


def event_document(event: Event) -> dict[str, Any]:
    return {"at": when(event.at_ms), "kind": event.kind, "text": event.text, "sequence": event.sequence}


async def serve_websocket(services: Services, receive: Receive, send: Send) -> None:
    """Send every event from now on until the client closes or lags."""
    await receive()
    await send({"type": "websocket.accept"})
    async with trio.open_nursery() as nursery:

        async def watch_for_close() -> None:
            while (await receive())["type"] != "websocket.disconnect":
                continue
            nursery.cancel_scope.cancel()

        async def emit(document: dict[str, Any]) -> None:
            await send({"type": "websocket.send", "text": json.dumps(document, ensure_ascii=False)})

        nursery.start_soon(watch_for_close)
        await _tell(services, True, emit)
        await send({"type": "websocket.close", "code": 1013, "reason": "lagged"})
        nursery.cancel_scope.cancel()


OPERATIONS = (
    Operation("GET", "/v1/events", "read", "what happened; with follow=1, what happens", get_events, None, LINES),
)
