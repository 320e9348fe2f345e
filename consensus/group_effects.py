"""All that goes into and comes out of a group's replica; two pages of vocabulary for `group`.

A group on a node is in one of two modes: *replica*, in the group's Raft configuration; or *observer*, which copies the
committed log from any peer. It changes by itself when the configuration does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from consensus.log_records import GroupWrite
from consensus.pull import Pull
from consensus.raft.config import RaftConfig
from consensus.raft.messages import Configuration, ReplicaMark, SnapshotMeta
from consensus.raft.outputs import Event, Outgoing, RaftStatus, ReadReady, ReadRefused
from mesh.names import MeshId, NodeId


class StateMachine(Protocol):
    """What a group's committed entries are applied to. Deterministic; `consensus.ledger_state` is one."""

    @property
    def applied(self) -> int:
        """The index of the last applied entry."""

    def apply(self, index: int, term: int, payload: bytes) -> bytes:
        """Apply a NORMAL entry; returns its result. Raises only what has to stop the node (rule T6)."""

    def advance(self, index: int) -> None:
        """The entry at this index was Raft's own."""

    def snapshot(self) -> bytes:
        """The whole state."""

    def restore(self, payload: bytes) -> None:
        """Become the state of a snapshot; DamagedError leaves it as it was."""


@dataclass(frozen=True, slots=True)
class PeerFact:
    """What the agreed state says of a node's memory (rule T3)."""

    mark: ReplicaMark  # its memory, and the newest start of it that was registered
    may_vote: bool  # False: its log is new, and it was not made a voter anew since

    @property
    def store_id(self) -> bytes:
        return self.mark.store_id


PeerFacts = Callable[[NodeId], PeerFact | None]
"""The agreed state's word on a node; None if it has none."""


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """The constants of a group.

    Args:
        raft: Of its Raft replica.
        snapshot_entries: A snapshot is taken when so many entries were applied since the last (etcd: 10,000).
        commit_note_s: What was committed is noted on the disk with the next write, or alone after this time; so that a
            restarted node knows its members, and hence whom to trust, before there is a leader.
        pending_max: Proposals waiting for their result here.
        lost_s: A replica that heard no leader for so long asks its peers whether the group went on without it.
    """

    raft: RaftConfig = field(default_factory=RaftConfig)
    snapshot_entries: int = 10_000
    commit_note_s: float = 0.5
    pending_max: int = 1024
    lost_s: float = 3.0


class Mode(Enum):
    OBSERVER = "observer"
    REPLICA = "replica"


# --- out ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveSnapshot:
    """Write it with `SnapshotStore.save`, then `Group.snapshot_saved`; if the disk is full, `snapshot_not_saved`."""

    meta: SnapshotMeta
    payload: bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """A proposal's end. `result` None: it will not be told here whether it is, or will be, applied."""

    token: int
    index: int
    result: bytes | None


@dataclass(frozen=True, slots=True)
class Fenced:
    """This replica has to stop: the group's agreed history is not the one that it has (rules T3, T5)."""

    why: str
    is_replaced: bool = False  # another copy of this node is known now; nothing here is to be begun anew


@dataclass(frozen=True, slots=True)
class GroupOutput:
    """What is to be done since the last call.

    The driver's duties:
    1. `send` at any time. Losing, doubling, reordering and delaying is allowed.
    2. `write` with `LogStore.write`, together with the other groups'; then `Group.written`. One is outstanding at a
       time. A failed write is the end of the process; with the disk full it is tried again later.
    3. `save`: see there. One is outstanding at a time.
    4. `compact_to`: `LogStore.compact`, unless 0.
    5. `pull`: ask that peer, then `Group.pull_answered` or `Group.pull_failed`.
    """

    send: tuple[Outgoing, ...]
    write: GroupWrite | None
    save: SaveSnapshot | None
    compact_to: int
    pull: Pull | None
    settled: tuple[Settled, ...]
    reads: tuple[ReadReady | ReadRefused, ...]
    events: tuple[Event | Fenced, ...]
    applied_to: int  # how far the state machine is now


@dataclass(frozen=True, slots=True)
class GroupStatus:
    mesh_id: MeshId
    epoch: int
    mode: Mode
    leader: NodeId | None
    is_leader: bool  # and its own no-op is committed
    term: int
    commit: int
    applied: int
    last_index: int
    snapshot_index: int
    configuration: Configuration
    heard_at: float  # when this copy was last known to be that of a live leader; -inf: never
    raft: RaftStatus | None

