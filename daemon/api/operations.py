"""The API as a table: every operation with the scope it asks. The router, the OpenAPI document and the tests of who
may do what are all made from it; what is not in it is not served (deny by default)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from daemon.api.auth import Principal
from daemon.services import Services

JSON_BODY_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way through the API."""

    services: Services
    principal: Principal
    request: Request

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        return str(self.request.query_params.get(name, default))


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path.

    Args:
        scope: What the caller's token must hold: "read", "deploy", "data" or "admin".
        body: A JSON schema of the request's body; None if it has none.
        answer: What the answer's media type is: JSON, a stream of JSON lines, or none.
    """

    method: str
    path: str
    scope: str
    summary: str
    handler: Handler
    body: dict[str, Any] | None = None
    answer: str = "application/json"


def schema(required: tuple[str, ...] = (), **properties: str) -> dict[str, Any]:
    """A JSON schema of an object whose properties have these simple types ("string", "integer", "string[]", …)."""
    described: dict[str, Any] = {}
    for name, kind in properties.items():
        if kind.endswith("[]"):
            described[name] = {"type": "array", "items": {"type": kind[:-2]}}
        else:
            described[name] = {"type": kind}
    return {"type": "object", "properties": described, "required": list(required), "additionalProperties": False}


def openapi(operations: tuple[Operation, ...], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these operations."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
        described: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": operation.method.lower() + re.sub(r"[{}]", "", operation.path).replace("/", "_"),
            "security": [{"token": [operation.scope]}],
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ],
            "responses": {
                "200": {"description": "done", "content": {operation.answer: {"schema": {"type": "object"}}}},
                "default": {
                    "description": "an RFC 9457 problem document",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
        }
        if operation.body is not None:
            described["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    texts = dict.fromkeys(("type", "title", "detail", "hint", "code", "kind"), "string")
    problem = schema(("title", "status", "code", "kind"), status="integer", **texts)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "freecloud",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": problem},
        },
    }
