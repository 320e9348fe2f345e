"""One replica, spoken to by hand: messages in at fixed times, what it says checked line by line.

    talk = Dialogue()                       # n1 of n1, n2, n3; times are seconds
    talk.hear(2, Heartbeat(0, 1), term=3)
    talk.says(2, HeartbeatReply(1))

`wrote()` finishes the write under way; only then does what waited for the disk appear among `says`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from consensus.raft.config import RaftConfig
from consensus.raft.messages import (
    Appended,
    Body,
    Configuration,
    EntryKind,
    Envelope,
    HardState,
    HeartbeatReply,
    LogEntry,
    PreVoteReply,
    PreVoteRequest,
    ReplicaMark,
    SnapshotMeta,
    VoteReply,
    VoteRequest,
    configuration_of,
)
from consensus.raft.outputs import Event, Output, Persist, RaftRole, RaftStatus
from consensus.raft.raft import Raft
from mesh.names import NodeId

GROUP = 4
EPOCH = 2


def name(number: int) -> NodeId:
    return NodeId(f"n{number}")


def names(*numbers: int) -> frozenset[NodeId]:
    return frozenset(map(name, numbers))


def mark(number: int, *, store: int = 1, boot: int = 1, nonce: int = 1) -> ReplicaMark:
    return ReplicaMark(name(number), bytes([number, store]), boot, bytes([nonce]))


def entry(index: int, term: int, payload: bytes = b"x") -> LogEntry:
    return LogEntry(index, term, EntryKind.NORMAL, payload)


class Dialogue:
    """The replica n1, and a record of all it said."""

    def __init__(
        self,
        voters: Iterable[int] = (1, 2, 3),
        *,
        me: int = 1,
        learners: Iterable[int] = (),
        term: int = 0,
        vote: int | None = None,
        log: Sequence[int] = (),
        configuration: Configuration | None = None,
        snapshot: SnapshotMeta | None = None,
        entries: Sequence[LogEntry] | None = None,
        applied: int = 0,
        config: RaftConfig | None = None,
        may_vote: bool = True,
        seed: int = 1,
    ) -> None:
        """`log` lists the terms of the entries 1, 2, 3 …"""
        self.now = 0.0
        configuration = configuration or configuration_of(names(*voters), names(*learners))
        self.raft = Raft(
            config or RaftConfig(),
            mark(me),
            group=GROUP,
            epoch=EPOCH,
            hard_state=HardState(term or max(log, default=0), name(vote) if vote else None),
            snapshot=snapshot or SnapshotMeta(0, 0, configuration),
            entries=entries if entries is not None else [entry(at + 1, t) for at, t in enumerate(log)],
            applied=applied,
            rng=random.Random(seed),
            now=0.0,
            may_vote=may_vote,
        )
        self.said: list[tuple[NodeId, Body, int]] = []
        self.events: list[Event] = []
        self.committed: list[LogEntry] = []
        self.outputs: list[Output] = []
        self.writing: Persist | None = None
        self._after: list[tuple[NodeId, Body, int]] = []

    # --- in ---------------------------------------------------------------------------------------------------

    def hear(self, number: int, body: Body, *, term: int | None = None, sender: ReplicaMark | None = None) -> None:
        """A message arrives; its sender's term is ours unless told otherwise."""
        at = self.status.term if term is None else term
        self.raft.receive(self.now, Envelope(GROUP, EPOCH, at, sender or mark(number), body))
        self.take()

    def pass_time(self, seconds: float) -> None:
        """Time passes, and every timer fires when it is due."""
        end = self.now + seconds
        while self.raft.next_deadline() <= end:
            self.now = max(self.now, self.raft.next_deadline())
            self.raft.tick(self.now)
            self.take()
        self.now = end

    def wrote(self) -> None:
        """The write under way, and those that follow from it, become durable."""
        while self.writing is not None:
            persist, self.writing = self.writing, None
            after, self._after = self._after, []
            self.said += after
            self.raft.persisted(self.now, persist.ticket)
            self.take()

    def take(self) -> Output:
        output = self.raft.take_output()
        self.outputs.append(output)
        self.said += [(out.to, out.envelope.body, out.envelope.term) for out in output.send]
        if output.persist is not None:
            assert self.writing is None, "two writes at once"
            self.writing = output.persist
            self._after = [(out.to, out.envelope.body, out.envelope.term) for out in output.send_after_persist]
        self.events += output.events
        self.committed += output.committed
        return output

    # --- out --------------------------------------------------------------------------------------------------

    @property
    def status(self) -> RaftStatus:
        return self.raft.status()

    def said_to(self, number: int, kind: type[Body] | None = None) -> list[Body]:
        return [body for to, body, _ in self.said if to == name(number) and (kind is None or type(body) is kind)]

    def says(self, number: int, body: Body) -> None:
        """It has said this to that replica since the last `quiet`, and the record is cleared for the next line."""
        assert body in self.said_to(number), f"expected {body}, it said {self.said}"
        self.said.clear()

    def says_nothing_of(self, *kinds: type[Body]) -> None:
        found = [body for _, body, _ in self.said if isinstance(body, kinds)]
        assert not found, f"it said {found}"
        self.said.clear()

    def has(self, kind: type[Event]) -> bool:
        return any(isinstance(event, kind) for event in self.events)

    # --- scenes -----------------------------------------------------------------------------------------------

    def win_pre_vote(self) -> None:
        """No leader for a timeout; enough others would vote for it."""
        self.pass_time(1.01)
        assert self.status.role is not RaftRole.LEADER
        for to, body, _ in list(self.said):
            if isinstance(body, PreVoteRequest) and self.status.role is RaftRole.PRE_CANDIDATE:
                self.hear(int(to[1:]), PreVoteReply(body.for_term, granted=True))
        assert self.status.role is RaftRole.CANDIDATE

    def become_leader(self) -> int:
        """Elected by all the others. Returns its term; its no-op is written and not committed."""
        self.win_pre_vote()
        self.wrote()
        for to, body, _ in list(self.said):
            if isinstance(body, VoteRequest) and self.status.role is RaftRole.CANDIDATE:
                self.hear(int(to[1:]), VoteReply(granted=True))
        assert self.status.role is RaftRole.LEADER
        self.wrote()
        return self.status.term

    def become_ready_leader(self, *followers: int) -> int:
        """Elected, and its no-op is on these (by default all) followers."""
        term = self.become_leader()
        for number in followers or [int(node_id[1:]) for node_id in self.others()]:
            self.hear(number, Appended(self.status.last_index))
        assert self.status.ready
        self.apply()
        self.said.clear()
        self.events.clear()
        return term

    def others(self) -> list[NodeId]:
        return [node_id for node_id in self.status.configuration.everyone() if node_id != self.raft._core.me]

    def propose(self, *payloads: bytes) -> object:
        result = self.raft.propose(self.now, payloads or [b"x"])
        self.take()
        return result

    def apply(self) -> None:
        """The state machine applies what it was given."""
        if self.committed:
            self.raft.applied_to(self.now, self.committed[-1].index)
            self.take()

    def change(self, voters: Iterable[int], learners: Iterable[int] = ()) -> object:
        result = self.raft.change_membership(self.now, names(*voters), names(*learners))
        self.take()
        return result

    def ack_heartbeats(self, *numbers: int) -> None:
        """These followers answer the newest heartbeat that each was sent."""
        from consensus.raft.messages import Heartbeat

        for number in numbers:
            for body in self.said_to(number, Heartbeat)[-1:]:
                assert isinstance(body, Heartbeat)
                self.hear(number, HeartbeatReply(body.round))
