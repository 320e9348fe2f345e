"""Whose messages are heard: those of the memory and the start that are known (rule T3).

A replica that lost its log, or runs on an old copy of it, has forgotten what it promised. What it says of its log and
its vote must not be counted beside promises that it does not remember. What it says as a *leader* may be heard: a
quorum of others has elected it, and a follower whose ledger lags could never catch up otherwise.

For the same reason the ledger's word on stores has a date, the index it was applied at: all of a mesh may restart
from an old ledger snapshot, with the entries that re-admitted a replica in the log and not yet known to be committed.
A replica that became a voter *after* the date is heard, or nobody could ever be elected to commit those entries.
"""

from __future__ import annotations

from collections.abc import Mapping

from consensus.raft.messages import ReplicaMark
from mesh.names import NodeId

SEEN_MAX = 10_000
"""As many nodes as a mesh may have."""


class Fences:
    """The stores that the ledger knows, and the newest start heard of each node."""

    def __init__(self) -> None:
        self._known: dict[NodeId, bytes] = {}
        self.known_at = 0
        self._newest: dict[NodeId, ReplicaMark] = {}

    def set_known(self, known: Mapping[NodeId, bytes], *, index: int) -> None:
        """Take the word of the ledger, as applied up to `index`, for each node's store."""
        self._known = dict(known)
        self.known_at = index

    def store_of(self, node_id: NodeId) -> bytes | None:
        """The store that the ledger knows for this node."""
        return self._known.get(node_id)

    def knows_other_store(self, mark: ReplicaMark) -> bool:
        """Whether the ledger names another store for this node than the mark does."""
        return self._known.get(mark.node_id, mark.store_id) != mark.store_id

    def refuse_start(self, mark: ReplicaMark) -> str | None:
        """Why this start of its sender is not heard at all; None if it is."""
        newest = self._newest.get(mark.node_id)
        if newest is None or newest.store_id != mark.store_id or newest.boot_counter < mark.boot_counter:
            if len(self._newest) < SEEN_MAX or newest is not None:
                self._newest[mark.node_id] = mark
            return None
        if newest.boot_counter > mark.boot_counter:
            return "the sender was started again since"
        if newest.boot_nonce != mark.boot_nonce:
            return "two live starts of this node have the same counter"
        return None
