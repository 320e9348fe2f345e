"""Replicas on another node, through real links: requests, bodies, WebSockets, and who may not be reached."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.errors import RefusedError
from mesh.http.asgi import asgi_handler
from mesh.http.client import ClientConnection
from mesh.http.server import HttpServer
from mesh.names import NodeId
from scheduler.ingress.accounts import End
from scheduler.ingress.detour import register_detour
from scheduler.ingress.ingress import Ingress, IngressConfig
from scheduler.ingress.landing import register_landing
from scheduler.ingress.local import LocalReplicas
from scheduler.ingress.routes import Target
from scheduler.ingress.upstreams import MeshUpstreams
from scheduler.runtimes.messages import RUNTIME, TunnelTo
from tests.unit.ingress.replicas import table_of
from tests.unit.mesh.nodes import Node, make_nodes, running

OPEN = (
    b"GET /ws HTTP/1.1\r\nHost: web.localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it was sent; echoes WebSocket messages."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        return
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = json.dumps({"path": scope["path"], "size": size}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Two:
    """Node A with an ingress, node B with a replica, and one between them."""

    def __init__(
        self, a: Node, b: Node, helper: Node, ingress: Ingress, port: int, target: Target, here: LocalReplicas
    ) -> None:
        self.a, self.b, self.helper = a, b, helper
        self.cut_off: set[NodeId] = set()  # whom A asks the helper for
        self.ingress = ingress
        self.port = port
        self.target = target
        self.here = here  # the door to B's replicas

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[Two]:
    a, b, helper = make_nodes(folder, 3)
    target = Target("web", "web-1", 7, b.id)
    async with running([a, b, helper]) as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(HttpServer(asgi_handler(app)).run, listeners)
        port = listeners[0].socket.getsockname()[1]
        here = LocalReplicas(lambda replica, index: port if (replica, index) == ("web-1", 7) else None)
        register_landing(b.server, here)
        register_detour(helper.server, helper.peers)
        cut_off: set[NodeId] = set()
        nothing_here = LocalReplicas(lambda replica, index: None)
        upstreams = MeshUpstreams(
            a.id, a.peers, nothing_here, lambda node_id: helper.id if node_id in cut_off else None
        )
        ingress = Ingress(IngressConfig(), upstreams, random.Random(1))
        doors = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(ingress.run, doors)
        ingress.set_routes(table_of(target))
        two = Two(a, b, helper, ingress, doors[0].socket.getsockname()[1], target, here)
        two.cut_off = cut_off
        yield two
        nursery.cancel_scope.cancel()


async def ask(two: Two, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    async with ClientConnection(await two.connect()) as connection:
        method = "POST" if body else "GET"
        deadline = trio.current_time() + 20
        response = await connection.request(method, path, host="web.localhost", body=body, deadline=deadline)
        return response.status, json.loads(await response.read(100_000))


async def test_a_replica_on_another_node_answers_and_takes_large_bodies(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as two:
        for _ in range(5):
            assert await ask(two, "/x") == (200, {"path": "/x", "size": 0})
        assert await ask(two, "/up", b"z" * 2_000_000) == (200, {"path": "/up", "size": 2_000_000})
        assert {record.node for record in two.ingress.requests()} == {two.b.id}


async def test_a_websocket_goes_through_the_mesh(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as two, await two.connect() as stream:
        await stream.send_all(OPEN + base64.b64decode("gYU3+iE9f59NUVg="))
        received = b""
        while b"Hello" not in received:
            received += await stream.receive_some(65536)
        assert received.startswith(b"HTTP/1.1 101 ")
        await stream.send_all(base64.b64decode("iII3+iE9NBI="))
        closing = b""
        while piece := await stream.receive_some(65536):
            closing += piece
        assert closing == b"\x88\x02\x03\xe8"
        await stream.aclose()
        while not two.ingress.requests():
            await trio.testing.wait_all_tasks_blocked()
        assert [record.end for record in two.ingress.requests()] == [End.UPGRADED]


async def test_a_replica_that_others_alone_reach_is_asked_through_one_of_them(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as two:
        third = two.helper
        two.a.peers.set_addresses(two.b.id, ())  # nothing passes from A to B
        assert (await ask(two, "/"))[0] == 502
        two.cut_off.add(two.b.id)
        assert await ask(two, "/up", b"z" * 100_000) == (200, {"path": "/up", "size": 100_000})
        assert two.b.id not in two.a.peers.linked()
        assert {two.a.id, two.b.id} <= third.peers.linked()


async def test_another_assignment_of_the_same_replica_is_not_reached(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as two:
        two.ingress.set_routes(table_of(Target("web", "web-1", 6, two.b.id)))
        status, problem = await ask(two, "/")
        assert (status, problem["code"]) == (502, "ingress.unreachable")
        with pytest.raises(RefusedError) as caught:
            header = RUNTIME.encode(TunnelTo("web-1", 6))
            await two.a.peers.open_tunnel(two.b.id, "ingress", header, deadline=trio.current_time() + 10)
        assert caught.value.stable_code == "tunnel.stale"


async def test_a_node_that_nobody_can_reach_costs_a_bounded_time_and_no_request(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as two:
        gone = Target("web", "web-0", 3, NodeId("z" * 26))
        two.ingress.set_routes(table_of(gone, two.target))
        for _ in range(6):
            assert (await ask(two, "/"))[0] == 200


async def test_a_replica_is_idle_once_the_askers_routes_have_dropped_it(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as two:
        assert (await ask(two, "/"))[0] == 200
        assert two.here.connections() == {"web-1": 1}  # at rest, at the far end of a tunnel
        two.ingress.set_routes(table_of())
        await two.here.wait_idle("web-1")
