"""Keeping the routes fresh: whenever the ledger or gossip says something new, the table is derived again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

import trio

from consensus.records import App, Assignment
from gossip.members import MemberState
from gossip.record import ReplicaReport
from gossip.view import MemberView
from mesh.names import NodeId
from scheduler.ingress.routes import NodeSeen, RouteTable, build_routes

SERVING = frozenset((MemberState.ALIVE, MemberState.SUSPECT))
"""States in which a node's replicas may be asked; one that is down, left or away is not."""


class AgreedApps(Protocol):
    """What of the ledger's state is needed."""

    @property
    def apps(self) -> Mapping[str, App]: ...
    @property
    def assignments(self) -> Mapping[str, Assignment]: ...


class FollowedLedger(Protocol):
    """What of `consensus.ledger.Ledger` is needed."""

    @property
    def state(self) -> AgreedApps: ...
    def watch(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Any]]: ...


class FollowedGossip(Protocol):
    """What of `gossip.service.Gossip` is needed."""

    def view(self) -> Mapping[NodeId, MemberView]: ...
    def watch(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Any]]: ...


class RouteFollower:
    """Derives the route table and hands it on.

    Args:
        own_reports: What this node's runner says right now; gossip would tell it a moment later.
        publish: Takes each new table.
    """

    def __init__(
        self,
        node_id: NodeId,
        ledger: FollowedLedger,
        gossip: FollowedGossip,
        own_reports: Callable[[], tuple[ReplicaReport, ...]],
        publish: Callable[[RouteTable], None],
    ) -> None:
        self._node_id = node_id
        self._ledger = ledger
        self._gossip = gossip
        self._own_reports = own_reports
        self._publish = publish
        self._woken = trio.Event()

    def wake(self) -> None:
        """Look again: the runner calls this when a replica of this node changed."""
        self._woken.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled; started when the first table has been handed on."""
        async with trio.open_nursery() as nursery, self._ledger.watch() as entries:
            with self._gossip.watch() as events:
                nursery.start_soon(self._listen, entries)
                nursery.start_soon(self._listen, events)
                self._publish(self.table())
                task_status.started()
                while True:
                    await self._woken.wait()
                    self._woken = trio.Event()
                    self._publish(self.table())

    def table(self) -> RouteTable:
        """The table of this moment."""
        nodes = {
            node_id: NodeSeen(member.record.replicas, member.state is MemberState.SUSPECT)
            for node_id, member in self._gossip.view().items()
            if member.record is not None and member.state in SERVING
        }
        nodes[self._node_id] = NodeSeen(self._own_reports(), suspected=False)
        state = self._ledger.state
        return build_routes(state.apps, state.assignments, nodes)

    async def _listen(self, channel: trio.MemoryReceiveChannel[Any]) -> None:
        """Every message means the same, look again; many at once are looked at once."""
        async for _ in channel:
            self._woken.set()
