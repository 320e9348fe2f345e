"""What the parts of one replica share: its term and role, its log, its way out.

The parts (`election`, `replication`, `reads`, `snapshots`, `transfer`) each hold the state of their own subject and
this; they do not know each other. `raft.Raft` calls them and moves between roles.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from consensus.raft.config import RaftConfig
from consensus.raft.log_view import LogView
from consensus.raft.membership import Membership
from consensus.raft.messages import Body, Configuration, EntryKind, Envelope, HardState, LogEntry, ReplicaMark
from consensus.raft.outputs import (
    ConfigurationChanged,
    Event,
    NeedSnapshot,
    Outgoing,
    RaftRole,
    ReadReady,
    ReadRefused,
    ReceivedChunk,
)
from mesh.names import NodeId

SEND_MAX = 65_536
"""Messages waiting to be taken; a driver that never drains is a bug, and this is where it shows."""


class Core:
    """The shared state of one replica."""

    def __init__(
        self,
        config: RaftConfig,
        me: ReplicaMark,
        *,
        group: int,
        epoch: int,
        hard_state: HardState,
        log: LogView,
        rng: random.Random,
        now: float,
    ) -> None:
        self.config = config
        self.mark = me
        self.me = me.node_id
        self.group = group
        self.epoch = epoch
        self.rng = rng
        self.now = now
        self.pace = 1.0  # how much slower than configured: measured round trips may ask for it
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = RaftRole.FOLLOWER
        self.leader: NodeId | None = None
        self.log = log
        self.members = Membership(log)
        self.to_send: list[Outgoing] = []
        self.after_persist: list[Outgoing] = []
        self.answers: list[ReadReady | ReadRefused] = []
        self.needs: list[NeedSnapshot] = []
        self.chunks: list[ReceivedChunk] = []
        self.events: list[Event] = []

    @property
    def is_leader(self) -> bool:
        return self.role is RaftRole.LEADER

    @property
    def configuration(self) -> Configuration:
        return self.members.current

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote)

    @property
    def election_min_s(self) -> float:
        return self.config.election_min_s * self.pace

    @property
    def election_max_s(self) -> float:
        return self.config.election_max_s * self.pace

    @property
    def heartbeat_s(self) -> float:
        return self.config.heartbeat_s * self.pace

    # --- the way out ------------------------------------------------------------------------------------------

    def send(self, to: NodeId, body: Body) -> None:
        """Say something that rests on nothing this replica has yet to write."""
        assert len(self.to_send) < SEND_MAX, "the driver does not take the output"
        self.to_send.append(Outgoing(to, self._envelope(body)))

    def send_after_persist(self, to: NodeId, body: Body) -> None:
        """Say something that is true once the present term, vote and log are durable (pitfalls 1 and 2)."""
        assert len(self.after_persist) < SEND_MAX, "the driver does not take the output"
        self.after_persist.append(Outgoing(to, self._envelope(body)))

    def _envelope(self, body: Body) -> Envelope:
        return Envelope(self.group, self.epoch, self.term, self.mark, body)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    # --- the term and the log ---------------------------------------------------------------------------------

    def enter_term(self, term: int, vote: NodeId | None) -> None:
        """Move to a later term: the only place where a vote is forgotten (pitfall 1).

        What was to be said in the old term after a write goes unsaid: nobody there is listening any more, and an
        acknowledgement must not outlive the log that it speaks of.
        """
        assert term > self.term, "terms only grow"
        self.term = term
        self.vote = vote
        self.after_persist.clear()

    def append_own(self, kind: EntryKind, payloads: Sequence[bytes]) -> tuple[LogEntry, ...]:
        """Append as the leader of this term."""
        first = self.log.last_index + 1
        entries = tuple(LogEntry(first + at, self.term, kind, payload) for at, payload in enumerate(payloads))
        self.append(entries)
        return entries

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Append to the log; a CONFIG entry acts from here on (pitfall 14)."""
        self.log.append(entries)
        if self.members.note_appended(entries):
            self._tell_configuration()

    def truncate_from(self, index: int) -> None:
        """Truncate the log; configurations above the cut never were (pitfall 14)."""
        self.log.truncate_from(index)
        if self.members.note_truncated(index):
            self._tell_configuration()

    def _tell_configuration(self) -> None:
        self.emit(ConfigurationChanged(self.members.current_index, self.members.current))
