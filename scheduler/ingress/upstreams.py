"""Connections to replicas: a local one over loopback, one elsewhere through a tunnel of the mesh link.

A tunnel names replica and assignment, never an address; the node at its end connects to its own replica only, and
refuses one that runs under another assignment (attack 15, rule A1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import trio

from mesh.http.relay import RelayLimits, Upstream
from mesh.http.streams import ByteStream
from mesh.names import NodeId
from scheduler.ingress.local import LocalReplicas
from scheduler.ingress.routes import Target
from scheduler.runtimes.messages import RUNTIME, TunnelRound, TunnelTo

TUNNEL_KIND = "ingress"
ROUND_KIND = "ingress-round"

IDLE_LOCAL_MAX = 16
"""Kept open to one replica of this node; a loopback connection costs 60 µs to make, so more is not worth its memory."""

IDLE_REMOTE_MAX = 2
"""Of tunnels: each idle one holds a stream of a link that bundles and logs share."""

CLOSE_ALL_S = 2.0

IDLE_S = 15.0
"""Shorter than what servers keep an idle connection for (Node 5 s is the exception), so that few have gone stale."""


class Upstreams(Protocol):
    """The seam between the ingress and whatever carries its bytes."""

    def is_local(self, target: Target) -> bool:
        """Does this replica run on this node?"""

    async def open(self, target: Target, *, deadline: float) -> ByteStream:
        """A new connection to a replica.

        Raises:
            FreecloudError: It could not be reached, and nothing was sent to it.
        """


class TunnelOpener(Protocol):
    """What of `mesh.peers.Peers` is needed."""

    async def open_tunnel(self, node_id: NodeId, kind: str, header: bytes, *, deadline: float) -> ByteStream: ...


class MeshUpstreams:
    """The real ones.

    Args:
        way_round: Who brings a tunnel on to a node that nothing passes to straight; None: the straight way.
    """

    def __init__(
        self,
        node_id: NodeId,
        peers: TunnelOpener,
        local: LocalReplicas,
        way_round: Callable[[NodeId], NodeId | None] = lambda node_id: None,
    ) -> None:
        self._node_id = node_id
        self._peers = peers
        self._local = local
        self._way_round = way_round

    def is_local(self, target: Target) -> bool:
        return target.node == self._node_id

    async def open(self, target: Target, *, deadline: float) -> ByteStream:
        if self.is_local(target):
            return await self._local.connect(target.replica_id, target.assignment_index, deadline=deadline)
        wanted = TunnelTo(target.replica_id, target.assignment_index)
        helper = self._way_round(target.node)
        if helper is not None:
            header = RUNTIME.encode(TunnelRound(target.node, wanted))
            return await self._peers.open_tunnel(helper, ROUND_KIND, header, deadline=deadline)
        return await self._peers.open_tunnel(target.node, TUNNEL_KIND, RUNTIME.encode(wanted), deadline=deadline)


class UpstreamPool:
    """Connections to replicas, those at rest kept for the next request that may use one.

    A kept connection can be closed by its server at the very moment that a request is written to it. Whether the
    request was done then is unknown, so `take` is for requests that may be sent twice; others always `open`.
    """

    def __init__(self, upstreams: Upstreams, limits: RelayLimits, *, idle_s: float = IDLE_S) -> None:
        self._upstreams = upstreams
        self._limits = limits
        self._idle_s = idle_s
        self._idle: dict[Target, list[Upstream]] = {}
        self._served: Collection[Target] | None = None  # None: nothing is known yet
        self._changed = trio.Event()

    async def open(self, target: Target, *, deadline: float) -> Upstream:
        """A new connection; raises as `Upstreams.open` does."""
        return Upstream(await self._upstreams.open(target, deadline=deadline), self._limits)

    def take(self, target: Target) -> Upstream | None:
        """The connection that rested for the shortest time, if there is one."""
        resting = self._idle.get(target)
        return resting.pop() if resting else None

    async def put_back(self, target: Target, upstream: Upstream) -> None:
        """After a request: keep the connection if it can be used again, else close it.

        One to a replica that is leaving would hold up its end (`LocalReplicas.wait_idle`), so it is closed too.
        """
        leaving = self._served is not None and target not in self._served
        limit = IDLE_LOCAL_MAX if self._upstreams.is_local(target) else IDLE_REMOTE_MAX
        if leaving or not upstream.reusable or len(self._idle.get(target, ())) >= limit:
            await upstream.aclose()
            return
        upstream.idle_since = trio.current_time()
        self._idle.setdefault(target, []).append(upstream)
        self._changed.set()

    def drop_others(self, targets: Collection[Target]) -> None:
        """Let connections to any other replica rest no longer: it is going away, or is another process now."""
        self._served = targets
        for target in [target for target in self._idle if target not in targets]:
            for upstream in self._idle[target]:
                upstream.idle_since = float("-inf")
        self._changed.set()

    async def expire(self) -> None:
        """Close what has rested for too long, when its time has come; on cancellation, all."""
        try:
            while True:
                self._changed = trio.Event()
                await self._close_older_than(trio.current_time() - self._idle_s)
                oldest = min((u.idle_since for resting in self._idle.values() for u in resting), default=float("inf"))
                with trio.move_on_at(oldest + self._idle_s):
                    await self._changed.wait()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_ALL_S):
                await self._close_older_than(float("inf"))

    async def _close_older_than(self, moment: float) -> None:
        expired: list[Upstream] = []
        for target in list(self._idle):
            resting = self._idle[target]
            expired += [upstream for upstream in resting if upstream.idle_since <= moment]
            kept = [upstream for upstream in resting if upstream.idle_since > moment]
            if kept:
                self._idle[target] = kept
            else:
                del self._idle[target]
        for upstream in expired:
            await upstream.aclose()
