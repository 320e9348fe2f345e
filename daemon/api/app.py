"""The API as one ASGI application: check Host and Origin, find the operation, ask who is calling, run it.

Every path goes through `_serve`; an operation that is not in a table does not exist. Errors become problem documents
here and nowhere else.
"""

from __future__ import annotations

from math import inf

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from daemon.api import apps, events, ingress, nodes, recovery, secrets, status, system, tokens
from daemon.api.answers import document
from daemon.api.auth import Principal, Throttle, offers_token, principal_of_socket, principal_of_token
from daemon.api.clock import wall_ms
from daemon.api.operations import Call, Operation, openapi
from daemon.api.origins import Origins
from daemon.api.problems import MEDIA_TYPE, problem
from daemon.services import Services
from daemon.version import VERSION
from mesh.errors import FreecloudError, MissingError, RefusedError

OPERATIONS: tuple[Operation, ...] = (
    *status.OPERATIONS,
    *nodes.OPERATIONS,
    *apps.OPERATIONS,
    *ingress.OPERATIONS,
    *secrets.OPERATIONS,
    *tokens.OPERATIONS,
    *events.OPERATIONS,
    *system.OPERATIONS,
    *recovery.OPERATIONS,
)

AGE_HEADER = "Freecloud-No-Quorum-For"
OPENAPI_PATH = "/v1/openapi.json"


class WrongMethod(RefusedError):
    """The path exists, and takes other methods (RFC 9110 §15.5.6)."""

    code = "method"

    def __init__(self, path: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{path} takes {', '.join(allowed)}", why="it knows no other method")
        self.allowed = allowed


async def _nothing(request: Request) -> Response:
    raise AssertionError("routes are only matched, never called")


class Api:
    """The ASGI application of one node."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._routes = [(Route(op.path, _nothing, methods=[op.method]), op) for op in OPERATIONS]
        self._throttle = Throttle()
        advertised = [services.config.advertise] if services.config.advertise else []
        self._origins = Origins(services.addresses["http"], advertised)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        try:
            response = await self._serve(scope, receive)
        except FreecloudError as error:
            told = problem(error)
            response = document(told, told["status"])
            response.headers["Content-Type"] = MEDIA_TYPE
            if error.stable_code == "token":
                response.headers["WWW-Authenticate"] = "Bearer"
            if isinstance(error, WrongMethod):
                response.headers["Allow"] = ", ".join(error.allowed)
        self._tell_age(response)
        await response(scope, receive, send)

    def _tell_age(self, response: Response) -> None:
        """Reads are local (rule C5): without a leader every answer says since when nothing new can have come."""
        ledger = self._services.ledger
        if ledger.leader is None and ledger.state.mesh is not None and ledger.age() != inf:
            response.headers[AGE_HEADER] = f"{ledger.age():.1f}"

    async def _serve(self, scope: Scope, receive: Receive) -> Response:
        request = Request(scope, receive)
        principal = self._principal(scope, request)
        if scope["path"] == OPENAPI_PATH and scope["method"] in ("GET", "HEAD"):
            principal.require("read")
            return document(openapi(OPERATIONS, VERSION))
        operation, scope["path_params"] = self._find(scope)
        principal.require(operation.scope)
        return await operation.handler(Call(self._services, principal, request))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`/v1/events` alone; the same checks as for a request, and a foreign Origin is refused (attack 30)."""
        try:
            request = Request({**scope, "type": "http", "method": "GET"}, receive)
            principal = self._principal(scope, request)
            if scope["path"] != "/v1/events":
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
                parameters = dict(child["path_params"])
                if not all(str(value).isprintable() for value in parameters.values()):
                    raise MissingError("nothing has such a name", why="it holds control characters")
                return operation, parameters
            if match is Match.PARTIAL:
                other_methods.append(operation.method)
        if other_methods:
            raise WrongMethod(scope["path"], tuple(other_methods))
        raise MissingError(f"there is nothing at {scope['path']}", hint=f"see {OPENAPI_PATH}")

    def _principal(self, scope: Scope, request: Request) -> Principal:
        """Who is calling; the order matters: a page in the owner's browser must fail before it can guess a token."""
        peer = scope.get("extensions", {}).get("freecloud.peer")
        if peer is not None:
            return principal_of_socket(peer.get("uid"))
        self._origins.check(request)
        address = (scope.get("client") or ("", 0))[0]
        self._throttle.check(address, trio.current_time())
        header = request.headers.get("authorization", "")
        try:
            principal = principal_of_token(header, self._services.ledger.state.tokens, wall_ms())
        except RefusedError:
            if offers_token(header):
                self._throttle.failed(address, trio.current_time())
            raise
        self._throttle.succeeded(address)
        return principal
