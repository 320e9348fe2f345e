"""Connections at rest: used again while they are fresh, closed when their time or their replica is over."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.http.relay import RelayLimits
from scheduler.ingress.upstreams import IDLE_LOCAL_MAX, IDLE_REMOTE_MAX, UpstreamPool
from tests.unit.ingress.replicas import target_of

ONE, TWO = target_of("web-1"), target_of("web-2")


class Memory:
    """Streams in memory; keeps the far ends."""

    def __init__(self, *, local: bool = True) -> None:
        self.local = local
        self.far_ends: list[trio.StapledStream] = []

    def is_local(self, target: object) -> bool:
        return self.local

    async def open(self, target: object, *, deadline: float) -> trio.StapledStream:
        near, far = trio.testing.memory_stream_pair()
        self.far_ends.append(far)
        return near


async def closed(stream: trio.StapledStream) -> bool:
    with trio.move_on_after(0.001):
        return await stream.receive_some(1) == b""
    return False


@pytest.mark.autojump
async def test_a_rested_connection_is_closed_when_its_time_is_over() -> None:
    memory = Memory()
    pool = UpstreamPool(memory, RelayLimits(), idle_s=15)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.expire)
        await pool.put_back(ONE, await pool.open(ONE, deadline=1))
        await trio.sleep(14)
        assert not await closed(memory.far_ends[0])
        await trio.sleep(2)
        assert await closed(memory.far_ends[0])
        assert pool.take(ONE) is None
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_connections_to_a_replica_that_is_gone_rest_no_longer() -> None:
    memory = Memory()
    pool = UpstreamPool(memory, RelayLimits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.expire)
        for target in (ONE, TWO):
            await pool.put_back(target, await pool.open(target, deadline=1))
        pool.drop_others([TWO])
        await trio.testing.wait_all_tasks_blocked()
        assert [await closed(far) for far in memory.far_ends] == [True, False]
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
@pytest.mark.parametrize(("local", "limit"), [(True, IDLE_LOCAL_MAX), (False, IDLE_REMOTE_MAX)])
async def test_only_so_many_rest(local: bool, limit: int) -> None:
    memory = Memory(local=local)
    pool = UpstreamPool(memory, RelayLimits())
    upstreams = [await pool.open(ONE, deadline=1) for _ in range(limit + 1)]
    for upstream in upstreams:
        await pool.put_back(ONE, upstream)
    assert [await closed(far) for far in memory.far_ends] == [False] * limit + [True]


@pytest.mark.autojump
async def test_the_freshest_is_taken_and_the_unusable_is_closed() -> None:
    memory = Memory()
    pool = UpstreamPool(memory, RelayLimits())
    first, second, third = [await pool.open(ONE, deadline=1) for _ in range(3)]
    third.reusable = False
    for upstream in (first, second, third):
        await pool.put_back(ONE, upstream)
    assert await closed(memory.far_ends[2])
    assert [pool.take(ONE), pool.take(ONE), pool.take(ONE)] == [second, first, None]
