"""The ingress before real servers: routing, retries within the rules, draining, and an account for every request."""

from __future__ import annotations

import json

import pytest
import trio

from mesh.http.connection import Exchange
from mesh.http.relay import RelayLimits, RequestBody
from scheduler.ingress.accounts import End
from scheduler.ingress.balance import RetryBudget
from scheduler.ingress.ingress import IngressConfig
from scheduler.ingress.routes import AppRoute, RouteTable
from tests.unit.http.served import wire_to
from tests.unit.ingress.replicas import field_of, read_request, table_of, target_of

ONE, TWO, THREE = target_of("web-1"), target_of("web-2"), target_of("web-3")


async def tell(exchange: Exchange) -> None:
    """Answers with what it was asked."""
    body = b""
    while piece := await exchange.receive():
        body += piece
    request = exchange.request
    told = {
        "target": request.target.decode(),
        "headers": {
            name.decode(): ", ".join(value.decode() for other, value in request.headers if other == name)
            for name, _ in request.headers
        },
        "body": len(body),
    }
    await exchange.respond(200, [(b"content-type", b"application/json")], json.dumps(told).encode())


def naming(name: str):  # type: ignore[no-untyped-def]
    async def answer(exchange: Exchange) -> None:
        while await exchange.receive():
            continue
        await exchange.respond(200, [(b"x-replica", name.encode())], name.encode())

    return answer


async def test_an_app_is_found_by_host_and_by_path() -> None:
    async with field_of() as field:
        await field.replica(ONE, tell)
        field.ingress.set_routes(table_of(ONE))
        async with field.ask("/x?y=1") as by_host:
            told = json.loads(await by_host.read(10_000))
        assert told["target"] == "/x?y=1" and "x-forwarded-prefix" not in told["headers"]
        async with field.ask("/apps/web/x?y=1", host="127.0.0.1") as by_path:
            told = json.loads(await by_path.read(10_000))
        assert told["target"] == "/x?y=1" and told["headers"]["x-forwarded-prefix"] == "/apps/web"
        async with field.ask("/apps/web?y=1", host="127.0.0.1") as bare:
            assert (bare.status, bare.header(b"location")) == (308, b"/apps/web/?y=1")


async def test_forged_forwarding_fields_end_at_the_ingress() -> None:
    async with field_of() as field:
        await field.replica(ONE, tell)
        field.ingress.set_routes(table_of(ONE))
        async with await field.connect() as stream:
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\n"
                b"X-Freecloud-Assignment: 99\r\nX-Real-IP: 9.9.9.9\r\nX-Mine: kept\r\n"
                b"X-Hop: no\r\nConnection: x-hop\r\n\r\n"
            )
            answer = await stream.receive_some(65536)
        headers = json.loads(answer.partition(b"\r\n\r\n")[2])["headers"]
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-freecloud-assignment"] == "1"
        assert headers["x-mine"] == "kept"
        assert not {"forwarded", "x-real-ip", "x-hop"} & headers.keys()


@pytest.mark.parametrize(
    ("host", "status", "end"),
    [("api.test", 404, End.NO_APP), ("nobody.localhost", 404, End.NO_APP), ("web.localhost", 503, End.NO_REPLICA)],
)
async def test_what_cannot_be_served_says_what_is_wrong(host: str, status: int, end: End) -> None:
    async with field_of() as field:
        field.ingress.set_routes(RouteTable({"web": AppRoute("web", (), (), 2)}))
        async with field.ask(host=host) as response:
            problem = json.loads(await response.read(10_000))
        assert response.status == status
        assert response.header(b"content-type") == b"application/problem+json"
        assert problem["title"] and problem["hint"]
        assert [record.end for record in field.ingress.requests()] == [end]


COMING = RouteTable({"web": AppRoute("web", (), (), 1, coming=1)})


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_waits_for_the_replica_that_is_coming(method: str) -> None:
    async with field_of() as field, trio.open_nursery() as nursery:
        await field.replica(ONE, naming("one"))
        field.ingress.set_routes(COMING)

        async def ask() -> None:
            async with field.ask(method=method) as response:
                assert await response.read(100) == b"one"

        nursery.start_soon(ask)
        while not field.ingress.held:
            await trio.lowlevel.checkpoint()
        field.ingress.set_routes(COMING)  # news of something else
        field.ingress.set_routes(table_of(ONE))
    assert [record.end for record in field.ingress.requests()] == [End.SERVED]


async def test_patience_with_a_replica_that_is_coming_ends() -> None:
    async with field_of(IngressConfig(hold_s=0.05)) as field:
        field.ingress.set_routes(COMING)
        async with field.ask() as response:
            assert response.status == 503
        assert field.ingress.held == 0


async def test_a_replica_that_refuses_because_it_ends_is_replaced_by_the_one_that_is_coming() -> None:
    async with field_of() as field, trio.open_nursery() as nursery:
        await field.replica(TWO, naming("two"))
        field.ingress.set_routes(RouteTable({"web": AppRoute("web", (ONE,), (), 1, coming=1)}))

        async def ask() -> None:
            async with field.ask(method="POST") as response:
                assert await response.read(100) == b"two"

        nursery.start_soon(ask)
        while not field.ingress.held:
            await trio.lowlevel.checkpoint()
        field.ingress.set_routes(table_of(TWO))
    assert field.upstreams.opened == [ONE, TWO]


async def test_replicas_that_cannot_be_reached_are_walked_for_any_method() -> None:
    async with field_of() as field:
        await field.replica(THREE, tell)
        field.ingress.set_routes(table_of(ONE, TWO, THREE))
        for _ in range(5):
            async with field.ask(method="POST", body=b"x" * 100) as response:
                assert response.status == 200
                assert json.loads(await response.read(10_000))["body"] == 100
        assert {record.end for record in field.ingress.requests()} == {End.SERVED}
        assert {record.retries for record in field.ingress.requests()} == {0}


async def hang_up(stream: trio.SocketStream) -> None:
    await read_request(stream)
    await stream.aclose()


async def test_a_safe_request_without_an_answer_is_asked_once_more_elsewhere() -> None:
    async with field_of() as field:
        await field.raw_replica(ONE, hang_up)
        await field.replica(TWO, naming("two"))
        field.ingress.set_routes(table_of(ONE, TWO))
        for _ in range(8):
            async with field.ask() as response:
                assert await response.read(100) == b"two"
        retried = [record for record in field.ingress.requests() if record.retries]
        assert retried and all(record.replica_id == "web-2" for record in retried)


async def test_the_search_for_another_replica_begins_when_the_first_is_given_up() -> None:
    async def hang_up_late(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await trio.sleep(0.3)
        await stream.aclose()

    async with field_of(IngressConfig(connect_s=0.2)) as field:
        await field.raw_replica(ONE, hang_up_late)
        await field.replica(TWO, naming("two"))
        field.ingress.set_routes(table_of(ONE, TWO))
        for _ in range(4):
            async with field.ask() as response:
                assert await response.read(100) == b"two"
        assert field.ingress.statistics().retries


async def test_a_request_that_may_have_been_done_is_not_sent_twice() -> None:
    async with field_of() as field:
        await field.raw_replica(ONE, hang_up)
        field.ingress.set_routes(table_of(ONE))
        async with field.ask(method="POST", body=b"x") as response:
            problem = json.loads(await response.read(10_000))
        assert response.status == 502 and problem["code"] == "ingress.no-answer"
        assert "may have been done" in problem["hint"]
        assert field.upstreams.opened == [ONE]
        (record,) = field.ingress.requests()
        assert (record.end, record.retries) == (End.NO_ANSWER, 0)


async def test_at_most_one_retry_a_request() -> None:
    async with field_of() as field:
        for target in (ONE, TWO, THREE):
            await field.raw_replica(target, hang_up)
        field.ingress.set_routes(table_of(ONE, TWO, THREE))
        async with field.ask() as response:
            assert response.status == 502
        assert len(field.upstreams.opened) == 2


async def test_retries_stop_when_the_budget_is_spent() -> None:
    async with field_of() as field:
        await field.raw_replica(ONE, hang_up)
        await field.raw_replica(TWO, hang_up)
        field.ingress.set_routes(table_of(ONE, TWO))
        for _ in range(60):
            async with field.ask() as response:
                assert response.status == 502
        retries = field.ingress.statistics().retries
        assert 20 <= retries <= 20 + 60 * 0.2


async def test_a_large_body_is_streamed_and_never_kept() -> None:
    async with field_of() as field:
        await field.replica(ONE, tell)
        field.ingress.set_routes(table_of(ONE))
        size = 3 * 1024 * 1024 + 17
        async with field.ask(method="POST", body=b"z" * size) as response:
            assert json.loads(await response.read(10_000))["body"] == size


async def test_no_more_of_a_body_is_kept_than_may_be_sent_again() -> None:
    async def keep(exchange: Exchange) -> None:
        body = RequestBody(exchange)
        while await body.next():
            held.append(len(b"".join(body.kept())) if body.replayable else 0)
        await exchange.respond(200, [])

    held: list[int] = []
    async with wire_to(keep) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n")
        for _ in range(20):
            await wire.send(b"x" * 10_000)
        await wire.receive()
    assert 0 < max(held) <= 64 * 1024
    assert held[-1] == 0


async def test_an_upstream_that_answers_early_is_believed_and_not_used_again() -> None:
    served: list[int] = []

    async def refuse_early(stream: trio.SocketStream) -> None:
        await read_request(stream)
        served.append(1)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await trio.sleep_forever()

    async with field_of() as field:
        await field.raw_replica(ONE, refuse_early)
        field.ingress.set_routes(table_of(ONE))
        async with await field.connect() as stream:
            await stream.send_all(
                b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 1000
            )
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 413 ")
        async with field.ask() as response:
            assert response.status == 413
        assert len(served) == 2


async def test_a_torn_answer_reaches_the_client_torn() -> None:
    async def tear(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await stream.aclose()

    async with field_of() as field:
        await field.raw_replica(ONE, tear)
        field.ingress.set_routes(table_of(ONE))
        async with await field.connect() as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
            received = b""
            while piece := await stream.receive_some(65536):
                received += piece
        assert received.endswith(b"\r\n\r\nhalf")
        (record,) = field.ingress.requests()
        assert (record.end, record.status) == (End.BROKEN, 200)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nInjected: b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_an_answer_that_means_two_things_is_not_passed_on(nonsense: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(nonsense)
        await stream.aclose()

    async with field_of() as field:
        await field.raw_replica(ONE, answer)
        field.ingress.set_routes(table_of(ONE))
        async with field.ask() as response:
            assert response.status == 502
            assert json.loads(await response.read(10_000))["code"] == "ingress.bad-answer"


async def test_a_replica_that_goes_away_finishes_what_it_has_and_gets_nothing_new() -> None:
    asked, go_on = trio.Event(), trio.Event()

    async def slow(exchange: Exchange) -> None:
        asked.set()
        await go_on.wait()
        await exchange.respond(200, [], b"old")

    async with field_of() as field, trio.open_nursery() as nursery:
        await field.replica(ONE, slow)
        await field.replica(TWO, naming("new"))
        field.ingress.set_routes(table_of(ONE))
        answers: list[bytes] = []

        async def begin() -> None:
            async with field.ask() as response:
                answers.append(await response.read(100))

        nursery.start_soon(begin)
        await asked.wait()
        field.ingress.set_routes(table_of(TWO))
        async with field.ask() as response:
            assert await response.read(100) == b"new"
        go_on.set()
    assert answers == [b"old"]


async def test_a_full_replica_is_not_asked_and_says_so() -> None:
    go_on = trio.Event()
    waiting: list[int] = []
    full = trio.Event()

    async def hold(exchange: Exchange) -> None:
        waiting.append(1)
        if len(waiting) == 100:
            full.set()
        await go_on.wait()
        await exchange.respond(200, [])

    async with field_of() as field, trio.open_nursery() as nursery:
        await field.replica(ONE, hold)
        field.ingress.set_routes(table_of(ONE))

        async def ask() -> None:
            async with field.ask() as response:
                assert response.status == 200

        for _ in range(100):
            nursery.start_soon(ask)
        await full.wait()
        async with field.ask() as response:
            assert (response.status, response.header(b"retry-after")) == (503, b"1")
        go_on.set()
    assert field.ingress.accounts.failed()[-1].end is End.BUSY


async def test_connections_to_a_replica_are_used_again_but_not_for_what_may_not_be_sent_twice() -> None:
    async with field_of() as field:
        server = await field.replica(ONE, tell)
        field.ingress.set_routes(table_of(ONE))
        for _ in range(5):
            async with field.ask() as response:
                await response.read(10_000)
        assert server.statistics().accepted == 1
        async with field.ask(method="POST") as response:
            await response.read(10_000)
        assert server.statistics().accepted == 2


async def test_a_connection_that_rested_too_long_is_told_and_costs_nothing_of_the_budget() -> None:
    connections: list[int] = []

    async def one_request_only(stream: trio.SocketStream) -> None:
        connections.append(1)
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await read_request(stream)
        await stream.aclose()

    async with field_of() as field:
        await field.raw_replica(ONE, one_request_only)
        field.ingress.set_routes(table_of(ONE))
        for _ in range(3):
            async with field.ask() as response:
                assert await response.read(100) == b"ok"
        assert [record.retries for record in field.ingress.requests()] == [0, 1, 1]
        assert field.ingress.budget.reserve >= RetryBudget().floor
        assert field.ingress.statistics().connect_failures == 0
        assert len(connections) == 3


@pytest.mark.deadline(10)
async def test_a_replica_that_says_nothing_is_given_up_by_name() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await trio.sleep_forever()

    config = IngressConfig(relay=RelayLimits(answer_s=0.05))
    async with field_of(config) as field:
        await field.raw_replica(ONE, silent)
        field.ingress.set_routes(table_of(ONE))
        async with field.ask() as response:
            assert (response.status, json.loads(await response.read(10_000))["code"]) == (504, "ingress.timeout")


async def test_suspected_replicas_are_asked_only_when_nobody_else_is_left() -> None:
    async with field_of() as field:
        await field.replica(ONE, naming("sure"))
        await field.replica(TWO, naming("suspected"))
        field.ingress.set_routes(table_of(ONE, suspected=(TWO,)))
        for _ in range(6):
            async with field.ask() as response:
                assert await response.read(100) == b"sure"
        field.ingress.set_routes(table_of(suspected=(TWO,)))
        async with field.ask() as response:
            assert await response.read(100) == b"suspected"


async def test_a_client_that_leaves_in_the_middle_is_accounted_for() -> None:
    async with field_of() as field:
        await field.replica(ONE, tell)
        field.ingress.set_routes(table_of(ONE))
        async with await field.connect() as stream:
            head = b"POST / HTTP/1.1\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            await stream.send_all(head + b"a\r\nhalf")
            await stream.send_eof()
            assert await stream.receive_some(1000) == b""
        assert [record.end for record in field.ingress.requests()] == [End.CLIENT_GONE]
        assert field.ingress.statistics().in_flight == 0
        assert [figures.in_flight for figures in field.ingress.target_statistics()] == [0]


async def test_answers_name_nothing_internal() -> None:
    async with field_of() as field:
        await field.replica(ONE, naming("one"))
        field.ingress.set_routes(table_of(ONE))
        async with field.ask() as response:
            names = {name for name, _ in response.headers}
        assert names == {b"x-replica", b"content-length", b"date"}


@pytest.mark.deadline(20)
async def test_a_client_that_gives_up_on_a_hanging_app_frees_its_place() -> None:
    asked = trio.Event()

    async def hang(stream: trio.SocketStream) -> None:
        await read_request(stream)
        asked.set()
        assert await stream.receive_some(10) == b"", "the ingress has to give up too"
        freed.set()

    freed = trio.Event()
    async with field_of() as field:
        await field.raw_replica(ONE, hang)
        field.ingress.set_routes(table_of(ONE))
        stream = await field.connect()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
        await asked.wait()
        await stream.aclose()
        await freed.wait()
        assert [figures.in_flight for figures in field.ingress.target_statistics()] == [0]
        assert [record.end for record in field.ingress.requests()] == [End.CLIENT_GONE]
