"""Probes against real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from scheduler.health import probe


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """A server that gives every connection these bytes; None: it accepts and stays silent."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        if answer is None:
            await trio.sleep_forever()
        else:
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.0 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", None),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "GET /health answered 503"),
        (b"HTTP/1.1 404 No\r\n\r\n", "GET /health answered 404"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 abc\r\n", "the answer is not HTTP"),
        (b"x" * 20_000, "the answer is not HTTP"),
        (b"", "the answer is not HTTP"),
    ],
)
async def test_an_answer_is_judged_by_its_status_alone(answer: bytes, wrong: str | None) -> None:
    async with answering(answer) as port:
        assert await probe(port, "/health", 5.0) == wrong


async def test_without_a_path_a_connection_is_enough() -> None:
    async with answering(None) as port:
        assert await probe(port, "", 5.0) is None


async def test_a_silent_app_is_unhealthy_at_the_timeout() -> None:
    async with answering(None) as port:
        assert await probe(port, "/health", 0.05) == "no answer within 0.05 s"


async def test_a_closed_port_says_so() -> None:
    async with answering(None) as port:
        pass
    assert await probe(port, "/health", 5.0) == f"no connection to port {port}: Connection refused"
