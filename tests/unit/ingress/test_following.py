"""The routes follow the ledger, gossip and this node's own runner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from consensus.records import Assignment
from gossip.members import MemberState
from gossip.record import ReplicaHealth, ReplicaReport
from gossip.view import MemberView
from mesh.names import NodeId
from scheduler.ingress.following import RouteFollower
from scheduler.ingress.routes import RouteTable
from tests.unit.ingress.test_routes import APPS

ME, OTHER = NodeId("me"), NodeId("other")


class World:
    """A ledger and a gossip that a test can change."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(apps=dict(APPS), assignments={})
        self.members: dict[NodeId, MemberView] = {}
        self.own: tuple[ReplicaReport, ...] = ()
        self._send, self._receive = trio.open_memory_channel[Any](8)

    def assign(self, replica: str, node: NodeId) -> None:
        self.state.assignments[replica] = Assignment(replica, "web", 1, node, 5, 0, "")

    def see(self, node: NodeId, state: MemberState, *replicas: str) -> None:
        record: Any = SimpleNamespace(replicas=tuple(map(healthy, replicas)))
        self.members[node] = MemberView(node, state, 1, 0.0, record, -inf, "")

    def view(self) -> dict[NodeId, MemberView]:
        return self.members

    def tell(self) -> None:
        self._send.send_nowait("something changed")

    @asynccontextmanager
    async def watch_ledger(self) -> AsyncIterator[Any]:
        yield self._receive

    @contextmanager
    def watch(self) -> Iterator[Any]:
        yield self._receive.clone()


def healthy(replica: str) -> ReplicaReport:
    return ReplicaReport(replica, "web", 1, 5, ReplicaHealth.HEALTHY, 80, 0, "")


async def test_the_table_is_derived_again_whenever_something_is_told() -> None:
    world = World()
    tables: list[RouteTable] = []
    ledger: Any = SimpleNamespace(state=world.state, watch=world.watch_ledger)
    follower = RouteFollower(ME, ledger, world, lambda: world.own, tables.append)

    def ready() -> list[str]:
        return [target.replica_id for target in tables[-1].apps["web"].ready]

    async with trio.open_nursery() as nursery:
        await nursery.start(follower.run)
        assert ready() == []

        world.assign("web-1", OTHER)
        world.see(OTHER, MemberState.ALIVE, "web-1")
        world.tell()
        await trio.testing.wait_all_tasks_blocked()
        assert ready() == ["web-1"]

        world.assign("web-2", ME)
        world.own = (healthy("web-2"),)
        follower.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert ready() == ["web-1", "web-2"]

        world.see(OTHER, MemberState.DOWN, "web-1")
        world.tell()
        await trio.testing.wait_all_tasks_blocked()
        assert ready() == ["web-2"]
        nursery.cancel_scope.cancel()
