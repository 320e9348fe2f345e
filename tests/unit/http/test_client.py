"""The small client: what it sends, what it reads, and in which of the project's errors it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from mesh.errors import DeadlineError, ExhaustedError, ProtocolError, UnreachableError
from mesh.http.client import ClientConnection


class Server:
    """The far end, played by the test."""

    def __init__(self) -> None:
        near, self.stream = trio.testing.memory_stream_pair()
        self.client = ClientConnection(near)

    async def receive_until(self, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            received += await self.stream.receive_some(65536)
        return received


def soon() -> float:
    return trio.current_time() + 5


@pytest.mark.autojump
async def test_a_request_and_its_answer() -> None:
    server = Server()
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            request = await server.receive_until(b"body")
            assert request == b"POST /x?y HTTP/1.1\r\nhost: h\r\na: 1\r\ncontent-length: 4\r\n\r\nbody"
            await server.stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nX: y\r\n")
            await server.stream.send_all(b"Content-Length: 3\r\n\r\nyes")

        nursery.start_soon(answer)
        headers = [(b"a", b"1")]
        response = await server.client.request("POST", "/x?y", host="h", headers=headers, body=b"body", deadline=soon())
        assert (response.status, response.reason, response.header(b"x")) == (201, "Created", b"y")
        assert await response.read(100) == b"yes"
        assert server.client.reusable


@pytest.mark.autojump
async def test_a_body_of_unknown_size_goes_and_comes_in_chunks() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b""
        yield b"c"

    server = Server()
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            request = await server.receive_until(b"0\r\n\r\n")
            assert request.endswith(b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
            await server.stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await server.stream.send_all(b"1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n")

        nursery.start_soon(answer)
        response = await server.client.request("PUT", "/", host="h", body=pieces(), deadline=soon())
        assert b"".join([piece async for piece in response]) == b"xyz"


@pytest.mark.autojump
async def test_an_answer_without_length_ends_with_its_connection_which_is_not_used_again() -> None:
    server = Server()
    await server.stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    await server.stream.send_eof()
    response = await server.client.request("GET", "/", host="h", deadline=soon())
    assert await response.read(100) == b"all of it"
    assert not server.client.reusable


@pytest.mark.autojump
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", UnreachableError),
        (b"HTTP/1.1 200 OK\r\nConte", UnreachableError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", UnreachableError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ProtocolError),
        (b"SSH-2.0\r\n\r\n", ProtocolError),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(answer: bytes, error: type[Exception]) -> None:
    server = Server()
    await server.stream.send_all(answer)
    await server.stream.send_eof()
    with pytest.raises(error):
        response = await server.client.request("GET", "/", host="h", deadline=soon())
        await response.read(100)


@pytest.mark.autojump
async def test_the_deadline_is_for_all_of_the_exchange() -> None:
    server = Server()
    await server.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    deadline = soon()
    response = await server.client.request("GET", "/", host="h", deadline=deadline)
    with pytest.raises(DeadlineError):
        await response.read(100)
    assert trio.current_time() == pytest.approx(deadline, abs=0.1)


@pytest.mark.autojump
async def test_an_answer_larger_than_wanted_is_not_read_on() -> None:
    server = Server()
    await server.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789")
    response = await server.client.request("GET", "/", host="h", deadline=soon())
    with pytest.raises(ExhaustedError):
        await response.read(5)


@pytest.mark.autojump
async def test_a_server_that_refuses_early_is_heard_though_it_reads_no_more() -> None:
    server = Server()
    await server.stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    await server.stream.send_eof()
    server.stream.receive_stream.close()
    response = await server.client.request("POST", "/", host="h", body=b"x" * 10, deadline=soon())
    assert response.status == 413
