"""All that Raft replicas say to each other, and what they keep on disk; one class a message.

Every message travels in an `Envelope`, whose term is always the sender's current one. What a pre-vote is *about*
(a term that nobody is in yet) stands in its body, so that no envelope ever claims a term it does not have.

Source: thesis figure 3.1 (append, vote), §9.6 (pre-vote), §6.4 (read index), figure 5.3 (snapshot chunks), §3.10
(leadership transfer).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.names import NodeId
from mesh.versioned import Codec, Limits

RAFT = Codec(Limits(total_bytes_max=1024 * 1024 + 16 * 1024))
"""The codec of messages and of CONFIG entries. A batch holds at most 64 entries and 1 MiB with their overhead."""

ENTRY_OVERHEAD_BYTES = 32
"""Counted for each entry beside its payload, so that a batch of empty entries has a size, too."""


class EntryKind(Enum):
    NORMAL = 1  # the state machine's business
    CONFIG = 2  # an encoded Configuration; ours, the state machine ignores it
    NOOP = 3  # what a new leader appends to commit its term (thesis §6.4); the state machine ignores it


@dataclass(frozen=True, slots=True)
class LogEntry:
    index: int  # from 1, without gaps
    term: int
    kind: EntryKind
    payload: bytes

    def size_bytes(self) -> int:
        return len(self.payload) + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be on the disk before anything that rests on it is said (pitfall 1)."""

    term: int
    vote: NodeId | None  # whom this replica voted for in this term


@RAFT.message("raft.configuration")
@dataclass(frozen=True, slots=True)
class Configuration:
    """Who takes part. While `voters_outgoing` is not empty the change is joint: both majorities are needed."""

    voters: frozenset[NodeId]
    voters_outgoing: frozenset[NodeId]
    learners: frozenset[NodeId]  # may overlap voters_outgoing: a voter on its way to become a learner

    @property
    def is_joint(self) -> bool:
        return bool(self.voters_outgoing)

    def is_voter(self, node_id: NodeId) -> bool:
        return node_id in self.voters or node_id in self.voters_outgoing

    def includes(self, node_id: NodeId) -> bool:
        return self.is_voter(node_id) or node_id in self.learners

    def everyone(self) -> tuple[NodeId, ...]:
        """All replicas in a fixed order: iteration over a set would differ from process to process."""
        return tuple(sorted(self.voters | self.voters_outgoing | self.learners))

    def all_voters(self) -> tuple[NodeId, ...]:
        return tuple(sorted(self.voters | self.voters_outgoing))


def configuration_of(voters: frozenset[NodeId], learners: frozenset[NodeId] = frozenset()) -> Configuration:
    """A configuration at rest (not joint)."""
    return Configuration(voters, frozenset(), learners)


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: all entries up to `index`, the last of them of `term`.

    `configuration` is the last *committed* one at that index (pitfall 16). Index 0 is the beginning of the group;
    its configuration is the one the group was made with.
    """

    index: int
    term: int
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class ReplicaMark:
    """Which memory and which start of a node speaks (rule T3)."""

    node_id: NodeId
    store_id: bytes  # born with the log
    boot_counter: int  # fsynced, plus one with every start
    boot_nonce: bytes  # random, of this start


# --- elections ------------------------------------------------------------------------------------------------


@RAFT.message("raft.pre-vote-request")
@dataclass(frozen=True, slots=True)
class PreVoteRequest:
    """Would you vote for me in `for_term`? Changes nothing at the receiver, its term least of all."""

    for_term: int
    last_index: int
    last_term: int


@RAFT.message("raft.pre-vote-reply")
@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """Names the term that was asked about (pitfall 5): the answer of a node behind in terms counts as well."""

    for_term: int
    granted: bool


@RAFT.message("raft.vote-request")
@dataclass(frozen=True, slots=True)
class VoteRequest:
    """In the envelope's term. `transfer`: the leader itself asked for this election (thesis §3.10, pitfall 8)."""

    last_index: int
    last_term: int
    transfer: bool


@RAFT.message("raft.vote-reply")
@dataclass(frozen=True, slots=True)
class VoteReply:
    granted: bool


@RAFT.message("raft.timeout-now")
@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """The leader hands over: campaign at once, without a pre-vote."""


@RAFT.message("raft.term-over")
@dataclass(frozen=True, slots=True)
class TermOver:
    """Answers a leader of an older term, which steps down on seeing the envelope's (pitfall 7: silence deadlocks)."""


@RAFT.message("raft.epoch-over")
@dataclass(frozen=True, slots=True)
class EpochOver:
    """Answers anything of an older epoch: the mesh was recovered without the sender (rule T5)."""


# --- the log --------------------------------------------------------------------------------------------------


@RAFT.message("raft.append")
@dataclass(frozen=True, slots=True)
class Append:
    prev_index: int
    prev_term: int
    commit: int  # the leader's
    entries: tuple[LogEntry, ...]


@RAFT.message("raft.appended")
@dataclass(frozen=True, slots=True)
class Appended:
    """The sender's log is the leader's up to `match`, and durable."""

    match: int


@RAFT.message("raft.append-refused")
@dataclass(frozen=True, slots=True)
class AppendRefused:
    """The sender does not have `prev_index` as the leader does; the logs may agree at `hint_index` (thesis §3.5)."""

    rejected: int
    hint_index: int
    hint_term: int  # 0: unknown


@RAFT.message("raft.heartbeat")
@dataclass(frozen=True, slots=True)
class Heartbeat:
    commit: int  # never above what this receiver acknowledged
    round: int  # the leader's newest read round


@RAFT.message("raft.heartbeat-reply")
@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    round: int


# --- reads ----------------------------------------------------------------------------------------------------


@RAFT.message("raft.read-request")
@dataclass(frozen=True, slots=True)
class ReadRequest:
    number: int  # the asker's own, never used twice in one start of it


@RAFT.message("raft.read-reply")
@dataclass(frozen=True, slots=True)
class ReadReply:
    number: int
    boot_nonce: bytes  # the asker's: an answer to an earlier start of it must not be taken for this one's
    index: int  # -1: refused


# --- snapshots ------------------------------------------------------------------------------------------------


@RAFT.message("raft.snapshot-chunk")
@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    meta: SnapshotMeta
    offset: int
    payload: bytes
    done: bool


@RAFT.message("raft.snapshot-reply")
@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """The receiver has the first `offset` bytes of the snapshot at `index`; the next chunk begins there."""

    index: int
    offset: int


Body = (
    PreVoteRequest
    | PreVoteReply
    | VoteRequest
    | VoteReply
    | TimeoutNow
    | TermOver
    | EpochOver
    | Append
    | Appended
    | AppendRefused
    | Heartbeat
    | HeartbeatReply
    | ReadRequest
    | ReadReply
    | SnapshotChunk
    | SnapshotReply
)

FROM_LEADER = (Append, Heartbeat, SnapshotChunk, TimeoutNow)
"""What only the leader of the envelope's term can say."""

REPLIES = (PreVoteReply, VoteReply, Appended, AppendRefused, HeartbeatReply, SnapshotReply, TermOver)
"""What counts only if the sender is in the receiver's configuration (pitfall 15)."""


@RAFT.message("raft.envelope")
@dataclass(frozen=True, slots=True)
class Envelope:
    group: int
    epoch: int
    term: int
    sender: ReplicaMark
    body: Body
