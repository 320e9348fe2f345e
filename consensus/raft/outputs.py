"""All that comes out of a Raft replica: effects, answers, events, and the reasons for a "no"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from consensus.raft.messages import Configuration, Envelope, HardState, LogEntry, SnapshotMeta
from mesh.names import NodeId


class RaftRole(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


# --- effects --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PersistTicket:
    """Goes to `Raft.persisted` when the write is durable; anything but the newest is stale (pitfall 26)."""

    number: int
    term: int
    last_index: int


@dataclass(frozen=True, slots=True)
class Persist:
    """One durable write; its parts are to be done in the order of the fields, and fsynced together.

    `reset_to`: throw the whole log away and begin anew after this snapshot, which is durable already.
    `truncate_from`: forget this entry and all after it.
    """

    ticket: PersistTicket
    hard_state: HardState | None
    reset_to: SnapshotMeta | None
    truncate_from: int | None
    entries: tuple[LogEntry, ...]


@dataclass(frozen=True, slots=True)
class Outgoing:
    to: NodeId
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class NeedSnapshot:
    """This follower needs the snapshot's bytes from `offset` on: answer with `Raft.snapshot_chunk`.

    `index` is the snapshot that the transfer began with; 0 means the newest. One that exists no longer is answered
    with the first bytes of the newest. Not to answer is allowed: it is asked for again.
    """

    to: NodeId
    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class ReceivedChunk:
    """The next bytes of the snapshot that is being received. Offset 0 begins a new one: what was gathered goes."""

    meta: SnapshotMeta
    offset: int
    payload: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """All bytes are there: check them, write, fsync, rename, restore the state machine, then `snapshot_installed`.

    If they turn out to be damaged: `snapshot_failed`; the log is left as it was (pitfall 22).
    """

    meta: SnapshotMeta


# --- answers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadReady:
    """The state machine here has applied `index`, which is at least as new as any write finished before the call."""

    token: int
    index: int


@dataclass(frozen=True, slots=True)
class ReadRefused:
    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not taken; nothing changed. `leader` is who might take it, if known."""

    leader: NodeId | None
    reason: str


class NotLeader(Refusal):
    """Only a leader takes this."""


class Busy(Refusal):
    """The leader, and not now: limits, a transfer, another change under way. Retry."""


class NotAllowed(Refusal):
    """Asking again without changing something is useless: it is too large, or would leave no live quorum."""


# --- events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BecameLeader:
    """Elected. Not yet to be told to anyone: see `LeaderReady` (pitfall 4)."""

    term: int


@dataclass(frozen=True, slots=True)
class LeaderReady:
    """This term's no-op is committed: this replica leads, and knows all that was committed before."""

    term: int
    index: int


@dataclass(frozen=True, slots=True)
class BecameFollower:
    term: int
    leader: NodeId | None


@dataclass(frozen=True, slots=True)
class SteppedDown:
    term: int
    why: str


@dataclass(frozen=True, slots=True)
class ConfigurationChanged:
    """Acts from now on, committed or not; reverts if its entry is truncated (pitfall 14)."""

    index: int
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class NewerEpochSeen:
    """The mesh was recovered without this replica: it has to save its tail and become a learner (rule T5)."""

    epoch: int
    sender: NodeId


@dataclass(frozen=True, slots=True)
class MessageFenced:
    """A message was dropped because its sender's memory or start is not the one that is known (rule T3)."""

    sender: NodeId
    why: str


@dataclass(frozen=True, slots=True)
class TransferEnded:
    target: NodeId
    done: bool


Event = (
    BecameLeader
    | LeaderReady
    | BecameFollower
    | SteppedDown
    | ConfigurationChanged
    | NewerEpochSeen
    | MessageFenced
    | TransferEnded
)


@dataclass(frozen=True, slots=True)
class Output:
    """What is to be done since the last call.

    The driver's duties:
    1. `send` at any time, in order where it can. Losing, doubling, reordering and delaying is allowed.
    2. `persist`, then `Raft.persisted(ticket)`, then `send_after_persist`. At most one is outstanding: the next
       output that has one comes after `persisted`. A failed write is `Raft.disk_failed` and the end of the process.
    3. `chunks`, in order, then `install`; see there.
    4. `committed`: apply in order, then `Raft.applied_to`. Entries are durable here before they stand in it.
    5. `compact_to`: entries up to this index may be taken from the disk; a durable snapshot stands for them.
    """

    persist: Persist | None
    send: tuple[Outgoing, ...]
    send_after_persist: tuple[Outgoing, ...]
    committed: tuple[LogEntry, ...]
    reads: tuple[ReadReady | ReadRefused, ...]
    snapshot_needed: tuple[NeedSnapshot, ...]
    chunks: tuple[ReceivedChunk, ...]
    install: InstallSnapshot | None
    compact_to: int
    events: tuple[Event, ...]


# --- status ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A follower as the leader sees it."""

    node_id: NodeId
    state: str
    match: int
    next_index: int
    inflight_messages: int
    inflight_bytes: int
    heard_s_ago: float
    is_learner: bool


@dataclass(frozen=True, slots=True)
class RaftStatus:
    role: RaftRole
    term: int
    leader: NodeId | None
    ready: bool  # leads, and its own no-op is committed
    commit: int
    applied: int
    first_index: int
    last_index: int
    stable_index: int
    snapshot_index: int
    configuration: Configuration
    configuration_index: int
    uncommitted_bytes: int
    reads_waiting: int
    transferring_to: NodeId | None
    progress: tuple[PeerStatus, ...]  # empty unless leading
