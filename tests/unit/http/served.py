"""A server on a pair of streams in memory: what a test says on the wire, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from mesh.http.connection import Handler
from mesh.http.limits import HttpLimits
from mesh.http.messages import Endpoints
from mesh.http.server import HttpServer

END = b"\r\n\r\n"


class Wire:
    """The client's end."""

    def __init__(self, stream: trio.StapledStream, server: HttpServer) -> None:
        self.stream = stream
        self.server = server
        self.ended = trio.Event()

    async def send(self, text: bytes) -> None:
        await self.stream.send_all(text)

    async def receive(self, count: int = 65536) -> bytes:
        return await self.stream.receive_some(count)

    async def receive_until(self, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            piece = await self.stream.receive_some(65536)
            assert piece, f"ended after {received!r}"
            received += piece
        return received

    async def receive_to_end(self) -> bytes:
        received = b""
        while piece := await self.stream.receive_some(65536):
            received += piece
        return received


@asynccontextmanager
async def wire_to(
    handler: Handler, limits: HttpLimits | None = None, *, lockstep: bool = False
) -> AsyncIterator[Wire]:
    """One connection to a server of this handler; in lockstep, a send waits until the other side has read it."""
    pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    client, server_side = pair()
    server = HttpServer(handler, limits or HttpLimits())
    wire = Wire(client, server)

    async def serve() -> None:
        await server.serve_stream(server_side, Endpoints(client=("192.0.2.1", 5)))
        wire.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield wire
        nursery.cancel_scope.cancel()
