"""How a group's history begins: at its founder, and again at the best survivor of a lost majority (rule T5)."""

from __future__ import annotations

from consensus.log_records import GroupWrite
from consensus.raft.messages import RAFT, EntryKind, HardState, LogEntry, configuration_of
from mesh.names import NodeId

LEDGER_GROUP = 0

EPOCH_TERM_BITS = 32
"""Terms of one epoch; at an election a second they last for a century."""


def term_in_epoch(term: int) -> int:
    """A term as people count it: from the beginning of its epoch."""
    return term & ((1 << EPOCH_TERM_BITS) - 1)


def founding_write(node_id: NodeId, *, group: int = LEDGER_GROUP) -> GroupWrite:
    """What the founder of a group writes into its empty log: a configuration with itself as the only voter."""
    entry = LogEntry(1, 1, EntryKind.CONFIG, RAFT.encode(configuration_of(frozenset({node_id}))))
    return GroupWrite(group, hard_state=HardState(1, None), entries=(entry,), epoch=1)


def opening_term(epoch: int) -> int:
    """The first term of an epoch; no election of those before can get there."""
    return epoch << EPOCH_TERM_BITS


def recovering_write(node_id: NodeId, epoch: int, last_index: int, *, group: int = LEDGER_GROUP) -> GroupWrite:
    """What the best survivor of a lost majority writes behind its log.

    Its terms begin where no election of the epochs before can get: an entry of the old epoch must never be taken for
    one of the new because index and term are equal.
    """
    term = opening_term(epoch)
    members = configuration_of(frozenset({node_id}))
    entry = LogEntry(last_index + 1, term, EntryKind.CONFIG, RAFT.encode(members))
    return GroupWrite(group, hard_state=HardState(term, None), entries=(entry,), epoch=epoch)
