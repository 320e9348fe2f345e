"""Whose messages are heard: those of the epoch, the memory and the start that are known (rules T3, T5).

A replica that lost its log, or runs on an old copy of it, has forgotten what it promised. What it says of its log and
its vote must not be counted beside promises that it does not remember. What it says as a *leader* may be heard: a
quorum of others has elected it, and a follower whose ledger lags could never catch up otherwise.

For the same reason the ledger's word on stores has a date, the index it was applied at: all of a mesh may restart
from an old ledger snapshot, with the entries that re-admitted a replica in the log and not yet known to be committed.
A replica that became a voter *after* the date is heard, or nobody could ever be elected to commit those entries.
"""

from __future__ import annotations

from collections.abc import Mapping

from consensus.raft.core import Core
from consensus.raft.messages import REPLIES, Envelope, EpochOver, ReplicaMark
from consensus.raft.outputs import MessageFenced, NewerEpochSeen
from mesh.names import NodeId

SEEN_MAX = 10_000
"""As many nodes as a mesh may have."""


class Fences:
    """The stores that the ledger knows, and the newest start heard of each node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[NodeId, ReplicaMark] = {}
        self._known_at = 0
        self._newest: dict[NodeId, ReplicaMark] = {}
        self._told: dict[NodeId, str] = {}
        self._epoch_told = core.epoch

    def set_known(self, known: Mapping[NodeId, ReplicaMark]) -> None:
        """Take the word of the ledger, as applied by now, for each node's store and newest registered start."""
        self._known = dict(known)
        self._known_at = self._core.log.applied
        self._told.clear()

    def admits(self, envelope: Envelope) -> bool:
        """Whether this message is to be looked at."""
        if envelope.group != self._core.group:
            return False
        if envelope.epoch != self._core.epoch:
            self._answer_other_epoch(envelope)
            return False
        sender = envelope.sender
        is_reply = isinstance(envelope.body, REPLIES)
        if is_reply and not self._core.configuration.includes(sender.node_id):
            return False  # of a replica that was removed, perhaps: it counts nowhere (pitfall 15)
        why = self._refuse(sender, is_reply=is_reply)
        if why is not None and self._told.get(sender.node_id) != why:
            self._told[sender.node_id] = why
            self._core.emit(MessageFenced(sender.node_id, why))
        return why is None

    def is_foreign(self, mark: ReplicaMark) -> bool:
        """Whether the ledger knows another store for this node, and it was not made a voter since."""
        if self._known.get(mark.node_id, mark).store_id == mark.store_id:
            return False
        return not self._core.members.was_promoted_after(mark.node_id, self._known_at)

    def _answer_other_epoch(self, envelope: Envelope) -> None:
        """The older side is told, and answers nothing, so that two epochs cannot keep each other talking."""
        sender = envelope.sender.node_id
        if envelope.epoch < self._core.epoch:
            if not isinstance(envelope.body, EpochOver):
                self._core.send(sender, EpochOver())
        elif envelope.epoch > self._epoch_told:
            self._epoch_told = envelope.epoch
            self._core.emit(NewerEpochSeen(envelope.epoch, sender))

    def _refuse(self, mark: ReplicaMark, *, is_reply: bool) -> str | None:
        if mark.node_id == self._core.me:
            return "another one speaks under this node's name"
        if is_reply and self.is_foreign(mark):
            return "its store is not the one that the ledger knows"
        return self._refuse_start(mark)

    def _refuse_start(self, mark: ReplicaMark) -> str | None:
        known = self._known.get(mark.node_id)
        newest = self._newest.get(mark.node_id)
        if known is not None and known.store_id == mark.store_id and known.boot_counter >= mark.boot_counter:
            if known.boot_counter > mark.boot_counter:
                return "the ledger knows a later start of the sender"
            if known.boot_nonce != mark.boot_nonce:
                return "another copy of the sender registered this start first"
            if newest is None or newest.boot_counter <= known.boot_counter:
                newest = self._newest[mark.node_id] = known  # whoever was heard first: this one is the registered one
        if newest is None or newest.store_id != mark.store_id or newest.boot_counter < mark.boot_counter:
            if len(self._newest) < SEEN_MAX or newest is not None:
                self._newest[mark.node_id] = mark
            return None
        if newest.boot_counter > mark.boot_counter:
            return "the sender was started again since"
        if newest.boot_nonce != mark.boot_nonce:
            return "two live starts of this node have the same counter"
        return None
