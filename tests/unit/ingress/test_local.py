"""The door to local replicas: who may pass, when nobody is inside, and no wait for a delayed acknowledgement."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.errors import RefusedError, UnreachableError
from mesh.http.relay import RelayLimits
from mesh.http.streams import BROKEN
from scheduler.ingress.local import LocalReplicas, LoopbackStream, open_loopback
from scheduler.ingress.upstreams import UpstreamPool
from tests.unit.ingress.replicas import Ports, target_of


async def listening(nursery: trio.Nursery) -> int:
    """A server that takes connections and holds them."""

    async def hold(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, hold, listeners)
    return int(listeners[0].socket.getsockname()[1])


def in_a_moment() -> float:
    return trio.current_time() + 5


async def test_idle_is_when_the_last_connection_was_closed() -> None:
    async with trio.open_nursery() as nursery:
        port = await listening(nursery)
        local = LocalReplicas(lambda replica, index: port)
        first = await local.connect("web-1", 1, deadline=in_a_moment())
        second = await local.connect("web-1", 1, deadline=in_a_moment())
        await local.connect("web-2", 1, deadline=in_a_moment())
        idle = trio.Event()

        async def wait() -> None:
            await local.wait_idle("web-1")
            idle.set()

        nursery.start_soon(wait)
        await first.aclose()
        await first.aclose()  # closing twice counts once
        await trio.testing.wait_all_tasks_blocked()
        assert not idle.is_set()
        assert local.connections() == {"web-1": 1, "web-2": 1}
        await second.aclose()
        await idle.wait()
        assert local.connections() == {"web-2": 1}
        nursery.cancel_scope.cancel()


async def test_a_connection_that_was_refused_or_failed_is_not_counted() -> None:
    ports: dict[tuple[str, int], int] = {("web-2", 1): 1}
    local = LocalReplicas(lambda replica, index: ports.get((replica, index)))
    with pytest.raises(RefusedError) as caught:
        await local.connect("web-1", 1, deadline=in_a_moment())
    assert caught.value.stable_code == "tunnel.stale"
    with pytest.raises(UnreachableError):
        await local.connect("web-2", 1, deadline=in_a_moment())
    assert local.connections() == {}
    await local.wait_idle("web-2")


async def test_a_connection_closed_while_cancelled_is_not_counted_any_more() -> None:
    async with trio.open_nursery() as nursery:
        port = await listening(nursery)
        local = LocalReplicas(lambda replica, index: port)
        stream = await local.connect("web-1", 1, deadline=in_a_moment())
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.aclose()
        assert local.connections() == {}
        nursery.cancel_scope.cancel()


async def test_a_connection_given_back_after_its_replica_left_is_closed() -> None:
    """Its far side waits for that: a replica that leaves ends when no connection is open."""
    async with trio.open_nursery() as nursery:
        target = target_of("web-1")
        pool = UpstreamPool(Ports({target: await listening(nursery)}), RelayLimits())
        upstream = await pool.open(target, deadline=in_a_moment())
        pool.drop_others([target_of("web-2")])
        await pool.put_back(target, upstream)
        assert pool.take(target) is None
        with pytest.raises(BROKEN):
            await upstream.stream.send_all(b"x")
        nursery.cancel_scope.cancel()


async def test_an_app_that_writes_twice_does_not_wait_for_a_delayed_acknowledgement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nagle holds the second write back until the first is acknowledged: some 40 ms each time, at the kernel's default.

    The assertion compares the two in the same run, by half of what the default costs.
    """
    quick = await _second_write_s()
    monkeypatch.setattr("scheduler.ingress.local._QUICKACK", None)
    delayed = await _second_write_s()
    assert delayed < 0.02 or quick < delayed / 2


async def _second_write_s() -> float:
    """How long an answer in two segments takes: the median of five on one connection."""

    async def answer(stream: trio.SocketStream) -> None:
        stream.setsockopt(6, 1, 0)  # TCP_NODELAY off, which trio turned on
        while await stream.receive_some(100):
            await stream.send_all(b"head")
            await stream.send_all(b"body")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        stream: LoopbackStream = await open_loopback(
            listeners[0].socket.getsockname()[1], deadline=in_a_moment()
        )
        times = []
        for _ in range(5):
            began = trio.current_time()
            await stream.send_all(b"ask")
            received = b""
            while len(received) < 8:
                received += await stream.receive_some(100)
            times.append(trio.current_time() - began)
        await stream.aclose()
        nursery.cancel_scope.cancel()
    return sorted(times)[2]
