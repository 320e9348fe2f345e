"""Whom to ask for what: push-pull conversations that are wanted, and those under way.

At most one conversation with a peer at a time; what comes up meanwhile waits for its end. After a failure the peer
is left alone for a while: the datagrams that made us ask come again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from gossip.outbox import Exchange
from mesh.names import NodeId

WANTED_MAX = 64
"""Single members wanted from one peer; more than that is a whole comparison."""

UNANSWERED_S = 30.0
"""A conversation that never reported its end is taken for dead after this."""

AFTER_FAILURE_S = 1.0


@dataclass(slots=True)
class _Peer:
    whole: bool = False
    wanted: set[NodeId] = field(default_factory=set)
    busy_until: float = -inf

    @property
    def wishes(self) -> bool:
        return self.whole or bool(self.wanted)


class Wishes:
    """Bounded by the members: one entry a peer."""

    def __init__(self) -> None:
        self._peers: dict[NodeId, _Peer] = {}

    def want(self, peer: NodeId, node_id: NodeId) -> None:
        """Fetch what `peer` knows of `node_id`."""
        entry = self._peers.setdefault(peer, _Peer())
        if len(entry.wanted) >= WANTED_MAX:
            entry.whole = True
        else:
            entry.wanted.add(node_id)

    def want_all(self, peer: NodeId) -> None:
        """Compare everything with `peer`."""
        self._peers.setdefault(peer, _Peer()).whole = True

    def take(self, now: float) -> tuple[Exchange, ...]:
        """The conversations to begin now."""
        begun: list[Exchange] = []
        for node_id in sorted(self._peers):
            entry = self._peers[node_id]
            if entry.wishes and now >= entry.busy_until:
                wanted = () if entry.whole else tuple(sorted(entry.wanted))
                begun.append(Exchange(node_id, wanted))
                entry.whole, entry.wanted = False, set()
                entry.busy_until = now + UNANSWERED_S
        return tuple(begun)

    def finished(self, now: float, peer: NodeId, *, complete: bool) -> None:
        """The conversation with `peer` is over."""
        entry = self._peers.get(peer)
        if entry is None:
            return
        if not complete:
            entry.busy_until = now + AFTER_FAILURE_S
            entry.whole, entry.wanted = False, set()
        elif entry.wishes:
            entry.busy_until = now
        else:
            del self._peers[peer]  # nothing is left to remember

    def forget(self, node_id: NodeId) -> None:
        """A member was removed."""
        self._peers.pop(node_id, None)
        for entry in self._peers.values():
            entry.wanted.discard(node_id)

    def next_deadline(self) -> float:
        return min((entry.busy_until for entry in self._peers.values() if entry.wishes), default=inf)
