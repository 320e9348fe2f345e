"""The roles of a replica, what moves it between them, and who of its parts handles which message.

    FOLLOWER ──timeout──▶ PRE_CANDIDATE ──could win──▶ CANDIDATE ──won──▶ LEADER
        ▲                       │                          │                │
        └───────────────────────┴── a leader, a later term ┴── it gives up ─┘

Source: thesis figure 3.3, with the pre-candidate of §9.6.
"""

from __future__ import annotations

from consensus.raft import following
from consensus.raft.core import Core
from consensus.raft.election import Election
from consensus.raft.fences import Fences
from consensus.raft.leadership import Leadership
from consensus.raft.messages import (
    FROM_LEADER,
    Append,
    Body,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    PreVoteReply,
    PreVoteRequest,
    ReadReply,
    ReadRequest,
    ReplicaMark,
    SnapshotChunk,
    TermOver,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from consensus.raft.outputs import BecameFollower, BecameLeader, RaftRole, SteppedDown
from consensus.raft.quorum import VoteResult
from consensus.raft.reads import Reads
from consensus.raft.snapshots import SnapshotReceiver
from consensus.raft.writes import Writes
from mesh.names import NodeId


class Roles:
    """Moves one replica through its roles; `leadership` is there while it leads."""

    def __init__(self, core: Core, *, may_vote: bool) -> None:
        self._core = core
        self.election = Election(core, may_vote=may_vote)
        self.reads = Reads(core)
        self.receiver = SnapshotReceiver(core)
        self.fences = Fences(core)
        self.writes = Writes(core)
        self.leadership: Leadership | None = None
        if core.configuration.everyone() == (core.me,):
            self.election.deadline = core.now  # alone in its group, it has nobody to wait for

    # --- time and disk ----------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        if self.leadership is not None:
            timer = self.leadership.next_deadline(writing=self.writes.since is not None)
        else:
            timer = self.election.next_deadline()
        return min(timer, self.reads.next_deadline())

    def tick(self) -> None:
        self.reads.tick()
        if self.leadership is not None:
            self.leadership.tick(is_stalled=self.writes.is_stalled)
            self.end_if_over()
        elif self.election.next_deadline() <= self._core.now:
            self._campaign()

    def written(self) -> None:
        """A write became durable: an own vote may count now, or an own entry."""
        core = self._core
        if core.role is RaftRole.CANDIDATE and self.writes.durable == core.hard_state:
            self._decide(self.election.count_own_vote())
        elif self.leadership is not None:
            self.leadership.check_commit()
            self.end_if_over()

    # --- messages ---------------------------------------------------------------------------------------------

    def receive(self, envelope: Envelope) -> None:
        if not self.fences.admits(envelope):
            return
        core = self._core
        sender = envelope.sender
        body = envelope.body
        if isinstance(body, PreVoteRequest):
            self.election.answer_pre_vote(sender.node_id, body)
            return
        if isinstance(body, PreVoteReply):
            self._receive_pre_vote_reply(envelope, body)
            return
        if envelope.term < core.term:
            self._answer_old_term(sender.node_id, body)
            return
        if envelope.term > core.term:
            if isinstance(body, VoteRequest) and not body.transfer and self.election.shields_leader():
                return
            self._become_follower(envelope.term, None)
        if isinstance(body, FROM_LEADER):
            self._hear_leader(sender.node_id)
        self._dispatch(sender, body)

    def _answer_old_term(self, sender: NodeId, body: Body) -> None:
        """Tell who lives in an older term, so that it gives up (pitfall 7). Replies of an older term are just late."""
        if isinstance(body, VoteRequest):
            self._core.send(sender, VoteReply(granted=False))
        elif isinstance(body, FROM_LEADER):
            self._core.send(sender, TermOver())

    def _receive_pre_vote_reply(self, envelope: Envelope, reply: PreVoteReply) -> None:
        """Counts by the term that it is about: who grants may be in an older one itself (pitfall 5)."""
        if envelope.term > self._core.term:
            self._become_follower(envelope.term, None)
        else:
            self._decide(self.election.receive_pre_vote_reply(envelope.sender.node_id, reply))

    def _hear_leader(self, leader: NodeId) -> None:
        core = self._core
        assert core.role is not RaftRole.LEADER, f"{leader} leads in term {core.term}, too"
        if core.leader != leader or core.role is not RaftRole.FOLLOWER:
            self._become_follower(core.term, leader)
        self.election.hear_leader()

    def _dispatch(self, sender: ReplicaMark, body: Body) -> None:
        """A message of the present term."""
        core = self._core
        match body:
            case Append():
                if self.receiver.installing is None and following.well_formed(body):
                    following.receive_append(core, sender.node_id, body)
            case Heartbeat():
                if self.receiver.installing is None:
                    following.receive_heartbeat(core, sender.node_id, body)
                else:
                    core.send(sender.node_id, HeartbeatReply(body.round))
            case SnapshotChunk():
                self.receiver.receive_chunk(sender.node_id, sender.boot_nonce, body)
            case TimeoutNow():
                if self._may_stand():
                    self._start_vote(transfer=True)
            case VoteRequest():
                self.election.answer_vote(sender.node_id, body)
            case VoteReply() if core.role is RaftRole.CANDIDATE:
                self._decide(self.election.receive_vote_reply(sender.node_id, body))
            case ReadRequest():
                self.reads.receive_request(sender, body)
            case ReadReply():
                self.reads.receive_reply(body)
            case _:
                if self.leadership is not None:
                    self.leadership.receive(sender, body)
                    self.end_if_over()

    # --- roles ------------------------------------------------------------------------------------------------

    def _may_stand(self) -> bool:
        """Nobody campaigns with a snapshot pending, a silent disk, or a store that the ledger does not know
        (pitfall 17)."""
        return (
            self.election.may_stand()
            and self.receiver.installing is None
            and not self.writes.is_stalled
            and not self.fences.is_foreign(self._core.mark)
        )

    def _campaign(self) -> None:
        """No leader was heard."""
        core = self._core
        had_leader = core.leader is not None
        if self._may_stand():
            result = self.election.start_pre_vote()
        else:
            core.role = RaftRole.FOLLOWER
            core.leader = None
            self.election.reset_timer()
            result = VoteResult.PENDING
        if had_leader:
            self.reads.leader_changed()
            core.emit(BecameFollower(core.term, None))
        self._decide(result)

    def _decide(self, result: VoteResult) -> None:
        """A lost (pre-)vote waits for its timer: asking again at once would only meet the same answers."""
        if result is not VoteResult.WON:
            return
        if self._core.role is RaftRole.PRE_CANDIDATE:
            self._start_vote(transfer=False)
        elif self._core.role is RaftRole.CANDIDATE:
            self._become_leader()

    def _start_vote(self, *, transfer: bool) -> None:
        had_leader = self._core.leader is not None
        self.election.start_vote(transfer=transfer)
        if had_leader:
            self.reads.leader_changed()
            self._core.emit(BecameFollower(self._core.term, None))

    def _become_leader(self) -> None:
        core = self._core
        core.role = RaftRole.LEADER
        core.leader = core.me
        core.emit(BecameLeader(core.term))
        self.leadership = Leadership(core, self.reads)

    def _become_follower(self, term: int, leader: NodeId | None) -> None:
        core = self._core
        was = core.role
        changed = core.leader != leader or was is RaftRole.LEADER
        if self.leadership is not None:
            self.leadership.transfer.end(done=term > core.term)
            self.leadership = None
            self.reads.stop_leading()
        if term > core.term:
            core.enter_term(term, None)
        core.role = RaftRole.FOLLOWER
        core.leader = leader
        if was is not RaftRole.FOLLOWER:
            self.election.reset_timer()
        if changed:
            self.reads.leader_changed()
            core.emit(BecameFollower(term, leader))

    def end_if_over(self) -> None:
        if self.leadership is not None and self.leadership.over is not None:
            self.end_leadership(self.leadership.over)

    def end_leadership(self, why: str) -> None:
        """Give up in the present term; the vote in it stays (pitfall 1)."""
        core = self._core
        assert self.leadership is not None, "only a leader gives up"
        self.leadership.hand_over()
        core.emit(SteppedDown(core.term, why))
        self._become_follower(core.term, None)
