"""The two shapes of an answer: one JSON document, or one a line as things happen."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from daemon.api.problems import problem
from mesh.errors import FreecloudError
from mesh.http.messages import PeerGone
from mesh.rpc import sole_error

LINES = "application/x-ndjson"


def document(value: Any, status: int = 200) -> Response:
    """One JSON document; never cached, never sniffed."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(
        json.dumps(value, ensure_ascii=False).encode() + b"\n", status, headers, media_type="application/json"
    )


Emit = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends one document of a streamed answer; raises when the caller is gone."""


class Lines(Response):
    """One JSON document a line, as `produce` emits them.

    Not an async generator: `produce` may hold nurseries and scopes, which must not be held across a yield. It is
    cancelled when the caller goes away. An error after the first byte is a last line {"problem": …}.
    """

    media_type = LINES

    def __init__(self, produce: Callable[[Emit], Awaitable[None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def emit(value: dict[str, Any]) -> None:
            line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_gone)
            with suppress(PeerGone):  # who left needs no answer
                try:
                    await self._produce(emit)
                except FreecloudError as error:
                    await emit({"problem": problem(error)})
                except BaseExceptionGroup as group:
                    await emit({"problem": problem(_told(group))})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()


def _told(group: BaseExceptionGroup[BaseException]) -> FreecloudError:
    """The error that a producer's own nursery wrapped; a client that left comes out as that, a bug as it is."""
    rest = group
    if (gone := group.subgroup(PeerGone)) is not None:
        _, without = group.split(PeerGone)
        if without is None:
            raise PeerGone("the client left") from gone
        rest = without
    return sole_error(rest)


def when(at_ms: int) -> str:
    """A time for people and programs: ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ms else ""
