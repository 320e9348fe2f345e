"""The API as one ASGI application: check Host and Origin, find the operation, ask who is calling, run it.

Every path goes through `_serve`; an operation that is not in a table does not exist. Errors become problem documents
here and nowhere else.
"""

from __future__ import annotations

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from daemon.api import apps, events, nodes, secrets, status, system, tokens
from daemon.api.answers import document
from daemon.api.auth import Principal, Throttle, principal_of_socket, principal_of_token
from daemon.api.clock import wall_ms
from daemon.api.operations import Call, Operation, openapi
from daemon.api.problems import MEDIA_TYPE, problem
from daemon.config import split_address
from daemon.services import Services
from daemon.version import VERSION
from mesh.errors import FreecloudError, MissingError, RefusedError

OPERATIONS: tuple[Operation, ...] = (
    *status.OPERATIONS,
    *nodes.OPERATIONS,
    *apps.OPERATIONS,
    *secrets.OPERATIONS,
    *tokens.OPERATIONS,
    *events.OPERATIONS,
    *system.OPERATIONS,
)


async def _nothing(request: Request) -> Response:
    raise AssertionError("routes are only matched, never called")


class Api:
    """The ASGI application of one node."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._routes = [(Route(op.path, _nothing, methods=[op.method]), op) for op in OPERATIONS]
        self._throttle = Throttle()
        names = {"localhost", "127.0.0.1", "[::1]", "::1"}
        names |= {split_address(address)[0] for address in services.addresses.values()}
        self._host_names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        try:
            response = await self._serve(scope, receive)
        except FreecloudError as error:
            response = document(problem(error), int(problem(error)["status"]))
            response.headers["Content-Type"] = MEDIA_TYPE
            if error.stable_code == "token":
                response.status_code = 401
                response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive) -> Response:
        request = Request(scope, receive)
        if request.url.path == "/v1/openapi.json":
            return document(openapi(OPERATIONS, VERSION))
        principal = self._principal(scope, request)
        operation, scope["path_params"] = self._find(scope)
        principal.require(operation.scope)
        return await operation.handler(Call(self._services, principal, request))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`/v1/events` alone; the same checks as for a request, and a foreign Origin is refused (attack 30)."""
        try:
            request = Request({**scope, "type": "http", "method": "GET"}, receive)
            principal = self._principal(scope, request)
            if request.url.path != "/v1/events":
                raise MissingError("no WebSocket is served here", why="/v1/events is")
            principal.require("read")
        except FreecloudError:
            await send({"type": "websocket.close", "code": 1008})
            return
        await events.serve_websocket(self._services, receive, send)

    def _find(self, scope: Scope) -> tuple[Operation, dict[str, str]]:
        other_methods = []
        for route, operation in self._routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                return operation, dict(child["path_params"])
            if match is Match.PARTIAL:
                other_methods.append(operation.method)
        if other_methods:
            raise RefusedError(f"{scope['path']} takes {', '.join(other_methods)}", code="method")
        raise MissingError(f"there is nothing at {scope['path']}", hint="see /v1/openapi.json")

    def _principal(self, scope: Scope, request: Request) -> Principal:
        """Who is calling; the order matters: a page in the owner's browser must fail before it can guess a token."""
        peer = scope.get("extensions", {}).get("freecloud.peer")
        if peer is not None:
            return principal_of_socket(peer.get("uid"))
        self._check_origin(request)
        address = (scope.get("client") or ("", 0))[0]
        self._throttle.check(address, trio.current_time())
        try:
            principal = principal_of_token(
                request.headers.get("authorization", ""), self._services.ledger.state.tokens, wall_ms()
            )
        except RefusedError:
            self._throttle.failed(address, trio.current_time())
            raise
        self._throttle.succeeded(address)
        return principal

    def _check_origin(self, request: Request) -> None:
        """Host must name this node (DNS rebinding, attack 29); an Origin must be this very origin (attack 30)."""
        host = request.headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.lower() not in self._host_names:
            raise RefusedError("this node does not go by that name", why="the Host header is foreign", code="host")
        origin = request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise RefusedError("this request comes from a foreign page", why="its Origin is foreign", code="origin")
