"""Reading a request's JSON body: bounded, checked against the operation's schema, errors in one place."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from daemon.api.operations import JSON_BODY_BYTES_MAX
from mesh.errors import ExhaustedError, UsageError

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
}


INTEGER_MAX = 2**53 - 1
"""Of either sign: what every JSON reader keeps exact (RFC 8259 §6), and far more than any field means."""

ITEMS_MAX = 1_000


async def read_json(request: Request, schema: dict[str, Any]) -> dict[str, Any]:
    """The body as an object that fits the schema.

    Raises:
        ExhaustedError: Larger than 1 MiB.
        UsageError: No JSON, or not what the operation takes; it names the field.
    """
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > JSON_BODY_BYTES_MAX:
            raise ExhaustedError("the request's body is too large", why="the limit is 1 MiB", code="limit.body")
    try:
        value = json.loads(content or b"{}")
    except (ValueError, RecursionError) as error:
        raise UsageError("the request's body is no JSON", why=str(error)) from error
    if not isinstance(value, dict):
        raise UsageError("the request's body is no JSON object")
    check(value, schema)
    return value


def check(value: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raises UsageError unless the object fits a schema made by `operations.schema`."""
    properties = schema["properties"]
    for name in value:
        if name not in properties:
            raise UsageError(f"unknown field {name!r}", why=f"known are {', '.join(properties)}")
    for name in schema["required"]:
        if value.get(name) is None:
            raise UsageError(f"the field {name!r} is missing")
    for name, given in value.items():
        if given is None:
            continue
        wanted = properties[name]
        if not _fits(given, wanted["type"]):
            raise UsageError(f"the field {name!r} must be of type {wanted['type']}")
        items = given if wanted["type"] == "array" else [given]
        if wanted["type"] == "array" and not all(_fits(item, wanted["items"]["type"]) for item in items):
            raise UsageError(f"the field {name!r} must hold {wanted['items']['type']}s")
        if len(items) > ITEMS_MAX:
            why = f"the limit is {ITEMS_MAX}"
            raise ExhaustedError(f"the field {name!r} holds too many", why=why, code="limit.body")
        for item in items:
            _check_size(name, item)


def _check_size(name: str, item: object) -> None:
    """What fits its type and still cannot be meant: a number beyond every counter, half a surrogate pair."""
    if isinstance(item, int) and abs(item) > INTEGER_MAX:
        raise UsageError(f"the field {name!r} is out of range")
    if isinstance(item, str):
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the field {name!r} is no Unicode text", why="it has half a surrogate pair") from error


def _fits(value: object, kind: str) -> bool:
    if kind == "integer" and isinstance(value, bool):
        return False
    return isinstance(value, TYPES[kind])
