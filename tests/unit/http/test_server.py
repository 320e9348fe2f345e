"""The server's shell: keep-alive, deadlines, backpressure, refusals, an orderly end."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

import pytest
import trio

from mesh.http.connection import Exchange
from mesh.http.limits import HttpLimits
from mesh.http.server import HttpServer
from mesh.identity import create_identity
from tests.unit.http.served import END, wire_to

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def hello(exchange: Exchange) -> None:
    await exchange.respond(200, [(b"x-path", exchange.request.path)], b"hello")


async def echo(exchange: Exchange) -> None:
    """Streams the body back as it comes."""
    await exchange.start(200, [])
    while piece := await exchange.receive():
        await exchange.send(piece)
    await exchange.finish()


@pytest.mark.autojump
async def test_requests_follow_each_other_on_one_connection() -> None:
    async with wire_to(hello) as wire:
        for _ in range(3):
            await wire.send(GET)
            assert (await wire.receive_until(b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert wire.server.statistics().requests == 3


@pytest.mark.autojump
async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    running: list[bytes] = []

    async def one_at_a_time(exchange: Exchange) -> None:
        running.append(exchange.request.path)
        assert len(running) == 1
        await trio.sleep(1)
        running.pop()
        await exchange.respond(200, [], exchange.request.path)

    async with wire_to(one_at_a_time) as wire:
        await wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(40)))
        received = await wire.receive_until(b"/39")
        bodies = [answer.split(b"HTTP/1.1")[0] for answer in received.split(END)[1:]]
        assert bodies == [b"/%d" % n for n in range(40)]


@pytest.mark.autojump
async def test_bodies_stream_both_ways_at_once() -> None:
    async with wire_to(echo) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await wire.receive_until(END)
        for word in (b"one", b"two"):
            await wire.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert await wire.receive_until(word + b"\r\n") == b"3\r\n" + word + b"\r\n"
        await wire.send(b"0\r\n\r\n")
        assert await wire.receive_until(END) == b"0\r\n\r\n"


@pytest.mark.autojump
async def test_a_handler_that_reads_nothing_holds_its_client_back() -> None:
    async def deaf(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with wire_to(deaf, lockstep=True) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
        with trio.move_on_after(20) as blocked:
            await wire.send(b"x" * 200_000)
        assert blocked.cancelled_caught


@pytest.mark.autojump
async def test_continue_is_said_when_the_handler_wants_the_body() -> None:
    async def read_first(exchange: Exchange) -> None:
        body = await exchange.receive()
        await exchange.respond(200, [], body)

    async with wire_to(read_first) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await wire.receive_until(END) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"ok")
        assert (await wire.receive_until(b"ok")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.autojump
async def test_an_answer_instead_of_continue_closes_for_nobody_knows_whether_the_body_comes() -> None:
    async with wire_to(hello) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        received = await wire.receive_to_end()
        assert received.count(b"HTTP/1.1") == 1
        assert b"\r\nconnection: close\r\n" in received


@pytest.mark.autojump
async def test_a_small_unread_body_is_passed_over_and_a_large_one_ends_the_connection() -> None:
    async with wire_to(hello) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody" + GET)
        assert (await wire.receive_until(b"hello")).count(b"200 OK") >= 1
    async with wire_to(hello) as wire:
        began = trio.current_time()
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999\r\n\r\nbody" + GET)
        assert (await wire.receive_to_end()).count(b"200 OK") == 1
        assert trio.current_time() - began < 5, "nobody waits for a body that nobody wants"


@pytest.mark.autojump
async def test_head_gets_the_fields_and_no_body() -> None:
    async with wire_to(hello) as wire:
        await wire.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await wire.receive_until(END)).startswith(b"HTTP/1.1 200 OK")
        await wire.send(GET)
        assert (await wire.receive_until(b"hello")).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.autojump
@pytest.mark.parametrize("started", [b"", b"GET / HTTP/1.1\r\nHo"])
async def test_a_head_that_takes_longer_than_ten_seconds_ends_the_connection(started: bytes) -> None:
    async with wire_to(hello) as wire:
        await wire.send(started)
        began = trio.current_time()
        received = await wire.receive_to_end()
        if started:
            assert wire.server.statistics().refused == (("limit.head-time", 1),)
        assert trio.current_time() - began == pytest.approx(10, abs=0.1)
        assert received.startswith(b"HTTP/1.1 408 ") if started else received == b""


@pytest.mark.autojump
async def test_a_client_that_drips_its_head_gets_no_more_time_by_it() -> None:
    async with wire_to(hello) as wire, trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                await wire.send(bytes([byte]))
                await trio.sleep(0.5)

        nursery.start_soon(drip)
        began = trio.current_time()
        assert (await wire.receive_to_end()).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began < 10.5
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_an_idle_connection_is_kept_for_seventy_five_seconds() -> None:
    async with wire_to(hello) as wire:
        await wire.send(GET)
        await wire.receive_until(b"hello")
        began = trio.current_time()
        assert await wire.receive_to_end() == b""
        assert trio.current_time() - began == pytest.approx(75, abs=0.1)


@pytest.mark.autojump
async def test_a_body_that_stops_is_given_up_after_thirty_seconds() -> None:
    async with wire_to(echo) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
        began = trio.current_time()
        assert not (await wire.receive_to_end()).endswith(b"0\r\n\r\n")
        assert 30 <= trio.current_time() - began < 33


@pytest.mark.autojump
async def test_a_body_slower_than_a_kibibyte_a_second_is_given_up() -> None:
    async def swallow(exchange: Exchange) -> None:
        while await exchange.receive():
            continue
        await exchange.respond(200, [])

    async with wire_to(swallow) as wire, trio.open_nursery() as nursery:

        async def drip() -> None:
            while True:
                await wire.send(b"x")
                await trio.sleep(1)

        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        nursery.start_soon(drip)
        began = trio.current_time()
        assert (await wire.receive_until(b"}")).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began < 40
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_a_client_that_stops_reading_is_given_up() -> None:
    gave_up: list[float] = []

    async def flood(exchange: Exchange) -> None:
        await exchange.start(200, [])
        try:
            while True:
                await exchange.send(b"x" * 65536)
        finally:
            gave_up.append(trio.current_time())

    async with wire_to(flood, lockstep=True) as wire:
        await wire.send(GET)
        await wire.receive_until(END)
        began = trio.current_time()
        await wire.ended.wait()
        assert gave_up[0] - began == pytest.approx(30, abs=0.1)
        assert wire.server.statistics().gone == 1


@pytest.mark.autojump
async def test_a_handler_that_fails_is_answered_for_and_the_server_goes_on() -> None:
    async def fail(exchange: Exchange) -> None:
        if exchange.request.path == b"/fail":
            raise RuntimeError("told to")
        await hello(exchange)

    async with wire_to(fail) as wire:
        await wire.send(b"GET /fail HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await wire.receive_to_end()).startswith(b"HTTP/1.1 500 ")
        assert wire.server.statistics().failed == 1


@pytest.mark.autojump
async def test_an_answer_that_is_too_short_ends_torn_and_not_complete() -> None:
    async def short(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-length", b"10")])
        await exchange.finish(b"half")

    async with wire_to(short) as wire:
        await wire.send(GET + GET)
        assert (await wire.receive_to_end()).count(b"200 OK") == 1


@pytest.mark.autojump
async def test_draining_ends_idle_connections_at_once_and_lets_work_finish() -> None:
    at_work = trio.Event()

    async def slow(exchange: Exchange) -> None:
        if exchange.request.path == b"/slow":
            at_work.set()
            await trio.sleep(5)
        await hello(exchange)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    server = HttpServer(slow)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, listeners)
        idle = await trio.open_tcp_stream(*address)
        await idle.send_all(GET)
        await idle.receive_some(1000)
        busy = await trio.open_tcp_stream(*address)
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        await at_work.wait()
        nursery.start_soon(server.drain, trio.current_time() + 60)
        assert await idle.receive_some(10) == b""
        received = b""
        while piece := await busy.receive_some(65536):
            received += piece
        assert received.endswith(b"hello") and b"\r\nconnection: close\r\n" in received
    with pytest.raises(OSError):
        await trio.open_tcp_stream(*address)


@pytest.mark.autojump
async def test_work_that_outlasts_the_drain_is_ended() -> None:
    at_work = trio.Event()

    async def endless(exchange: Exchange) -> None:
        at_work.set()
        await trio.sleep_forever()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = HttpServer(endless)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, listeners)
        stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        await stream.send_all(GET)
        await at_work.wait()
        began = trio.current_time()
        await server.drain(began + 3)
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)
        assert await stream.receive_some(10) == b""


async def test_connections_over_the_limit_are_turned_away() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    server = HttpServer(hello, HttpLimits(connections_max=2))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, listeners)
        kept = [await trio.open_tcp_stream(*address) for _ in range(2)]
        for stream in kept:
            await stream.send_all(GET)
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200 ")
        third = await trio.open_tcp_stream(*address)
        assert await third.receive_some(10) == b""
        assert server.statistics().turned_away == 1
        await kept[0].aclose()
        while server.statistics().connections == 2:
            await trio.testing.wait_all_tasks_blocked()
        fourth = await trio.open_tcp_stream(*address)
        await fourth.send_all(GET)
        assert (await fourth.receive_some(1000)).startswith(b"HTTP/1.1 200 ")
        nursery.cancel_scope.cancel()


async def test_over_tls_the_scheme_is_https_and_a_plain_client_gets_nothing(tmp_path: Path) -> None:
    seen = []

    async def note(exchange: Exchange) -> None:
        seen.append(exchange.endpoints.scheme)
        await hello(exchange)

    identity = create_identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.pem_path)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    async with trio.open_nursery() as nursery:
        await nursery.start(HttpServer(note, tls=context).run, listeners)
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        client = trio.SSLStream(await trio.open_tcp_stream(*address), trusting)
        await client.send_all(GET)
        assert bytes(await client.receive_some(1000)).endswith(b"hello")
        async with await trio.open_tcp_stream(*address) as plain:
            await plain.send_all(GET)
            assert b"HTTP" not in await plain.receive_some(1000)
        nursery.cancel_scope.cancel()
    assert seen == ["https"]


async def test_a_unix_socket_tells_who_is_at_its_other_end(tmp_path: Path) -> None:
    seen = []

    async def note(exchange: Exchange) -> None:
        seen.append(exchange.endpoints.peer)
        await hello(exchange)

    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(str(tmp_path / "s"))
    sock.listen()
    server = HttpServer(note)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [trio.SocketListener(sock)])
        stream = await trio.open_unix_socket(tmp_path / "s")
        await stream.send_all(GET)
        assert (await stream.receive_some(1000)).endswith(b"hello")
        nursery.cancel_scope.cancel()
    (peer,) = seen
    assert peer is not None and (peer.pid, peer.uid) == (os.getpid(), os.getuid())
