"""The two shapes of an answer: one JSON document, or one a line as things happen."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response, StreamingResponse

from daemon.api.problems import problem
from mesh.errors import FreecloudError

LINES = "application/x-ndjson"


def document(value: Any, status: int = 200) -> Response:
    """One JSON document; never cached, never sniffed."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(
        json.dumps(value, ensure_ascii=False).encode() + b"\n", status, headers, media_type="application/json"
    )


def lines(values: AsyncIterator[dict[str, Any]]) -> Response:
    """One JSON document a line. An error after the first byte is a last line {"problem": …}, told by the client."""

    async def body() -> AsyncIterator[bytes]:
        try:
            async for value in values:
                yield json.dumps(value, ensure_ascii=False).encode() + b"\n"
        except FreecloudError as error:
            yield json.dumps({"problem": problem(error)}).encode() + b"\n"

    return StreamingResponse(body(), headers={"Cache-Control": "no-store"}, media_type=LINES)


def when(at_ms: int) -> str:
    """A time for people and programs: ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ms else ""
