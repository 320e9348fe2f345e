"""Real replicas for the ingress's tests: small servers on loopback, each with a way to misbehave."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from mesh.errors import UnreachableError
from mesh.http.client import ClientConnection, ClientResponse
from mesh.http.connection import Exchange
from mesh.http.server import HttpServer
from mesh.http.streams import ByteStream
from mesh.names import NodeId
from scheduler.ingress.ingress import Ingress, IngressConfig
from scheduler.ingress.local import open_loopback
from scheduler.ingress.routes import AppRoute, RouteTable, Target

Answer = Callable[[Exchange], Awaitable[None]]
Raw = Callable[[trio.SocketStream], Awaitable[None]]


def target_of(name: str, *, app: str = "web", index: int = 1) -> Target:
    return Target(app, name, index, NodeId(f"node-of-{name}"))


def table_of(*ready: Target, suspected: tuple[Target, ...] = ()) -> RouteTable:
    names = {target.app for target in (*ready, *suspected)}
    return RouteTable(
        {
            name: AppRoute(
                name,
                tuple(target for target in ready if target.app == name),
                tuple(target for target in suspected if target.app == name),
                0,
            )
            for name in names
        }
    )


@dataclass
class Ports:
    """The seam, filled with ports of this machine; a target without one is unreachable."""

    ports: dict[Target, int] = field(default_factory=dict)
    opened: list[Target] = field(default_factory=list)

    def is_local(self, target: Target) -> bool:
        return True

    async def open(self, target: Target, *, deadline: float) -> ByteStream:
        self.opened.append(target)
        if target not in self.ports:
            raise UnreachableError(f"{target.replica_id} is not there")
        return await open_loopback(self.ports[target], deadline=deadline)


class Field:
    """An ingress and the replicas behind it."""

    def __init__(self, nursery: trio.Nursery, ingress: Ingress, upstreams: Ports, port: int) -> None:
        self._nursery = nursery
        self.ingress = ingress
        self.upstreams = upstreams
        self.port = port

    async def replica(self, target: Target, answer: Answer) -> HttpServer:
        """A replica that speaks HTTP."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.upstreams.ports[target] = listeners[0].socket.getsockname()[1]
        server = HttpServer(answer)
        await self._nursery.start(server.run, listeners)
        return server

    async def raw_replica(self, target: Target, answer: Raw) -> None:
        """A replica that does with its connections what it likes."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.upstreams.ports[target] = listeners[0].socket.getsockname()[1]
        await self._nursery.start(partial(trio.serve_listeners, answer, listeners))

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    @asynccontextmanager
    async def ask(
        self, path: str = "/", *, method: str = "GET", host: str = "web.localhost", body: bytes = b""
    ) -> AsyncIterator[ClientResponse]:
        async with ClientConnection(await self.connect()) as connection:
            yield await connection.request(
                method, path, host=host, body=body, deadline=trio.current_time() + 10
            )


@asynccontextmanager
async def field_of(config: IngressConfig | None = None) -> AsyncIterator[Field]:
    upstreams = Ports()
    ingress = Ingress(config or IngressConfig(), upstreams, random.Random(7))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(ingress.run, listeners)
        yield Field(nursery, ingress, upstreams, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.SocketStream) -> bytes:
    """A request's head as it came, for raw replicas."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some(65536)
    return received
