"""One replica of one Raft group: its roles, its terms, and who of its parts handles what.

    FOLLOWER ──timeout──▶ PRE_CANDIDATE ──could win──▶ CANDIDATE ──won──▶ LEADER
        ▲                       │                          │                │
        └───────────────────────┴── a leader, a later term ┴────────────────┘

A machine (see `mesh.machine`): no I/O, no clock, no randomness of its own. Each input takes `now`, in seconds on one
monotonic clock.

Source: thesis §3; the two ways out, `send` and `send_after_persist`, as in etcd-io/raft `msgs`, `msgsAfterAppend`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from consensus.raft import following
from consensus.raft.config import RaftConfig
from consensus.raft.core import Core
from consensus.raft.election import Election
from consensus.raft.fences import Fences
from consensus.raft.leadership import Leadership
from consensus.raft.log_view import LogView
from consensus.raft.messages import (
    FROM_LEADER,
    REPLIES,
    Append,
    Appended,
    Body,
    Envelope,
    EpochOver,
    HardState,
    Heartbeat,
    HeartbeatReply,
    LogEntry,
    PreVoteReply,
    PreVoteRequest,
    ReadReply,
    ReadRequest,
    ReplicaMark,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReply,
    TermOver,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from consensus.raft.outputs import (
    BecameFollower,
    BecameLeader,
    ConfigurationChanged,
    MessageFenced,
    NewerEpochSeen,
    NotLeader,
    Outgoing,
    Output,
    Persist,
    PersistTicket,
    RaftRole,
    RaftStatus,
    Refusal,
    SteppedDown,
)
from consensus.raft.quorum import VoteResult
from consensus.raft.reads import Reads
from consensus.raft.snapshots import SnapshotReceiver
from mesh.machine import ASLEEP
from mesh.names import NodeId

ROUND_TRIPS_PER_ELECTION = 10
"""The shortest election timeout is at least so many measured round trips: a vote takes two, and pings jitter."""


class Raft:
    """A replica, made from what its disk has.

    Args:
        config: The constants.
        me: This replica's node, store and start.
        group: Which group it is a replica of.
        epoch: The mesh's; messages of an older one are refused (rule T5).
        hard_state: As last persisted; `HardState(0, None)` for a new one.
        snapshot: The newest durable one. For a new group: index 0, term 0 and the group's first configuration; for a
            replica that shall be told everything: an empty configuration.
        entries: The recovered log.
        applied: How far the state machine got.
        rng: For election timeouts.
        now: The time.
        may_vote: False if the store is new and the ledger has not re-admitted it (rule T3); see `allow_votes`.
    """

    def __init__(
        self,
        config: RaftConfig,
        me: ReplicaMark,
        *,
        group: int,
        epoch: int,
        hard_state: HardState,
        snapshot: SnapshotMeta,
        entries: Sequence[LogEntry],
        applied: int,
        rng: random.Random,
        now: float,
        may_vote: bool = True,
    ) -> None:
        log = LogView(snapshot, entries, applied)
        self._core = Core(config, me, group=group, epoch=epoch, hard_state=hard_state, log=log, rng=rng, now=now)
        self._election = Election(self._core, may_vote=may_vote)
        self._reads = Reads(self._core)
        self._receiver = SnapshotReceiver(self._core)
        self._fences = Fences()
        self._fenced: dict[NodeId, str] = {}
        self._leadership: Leadership | None = None
        self._durable = hard_state
        self._outstanding: tuple[PersistTicket, HardState, float] | None = None
        self._tickets = 0
        self._compact_to = 0
        self._failed = False
        if self._core.configuration.everyone() == (me.node_id,):
            self._election.deadline = now  # alone in its group, it has nobody to wait for

    # --- time -------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        if self._failed:
            return ASLEEP
        if self._leadership is not None:
            timer = self._leadership.next_deadline(writing=self._outstanding is not None)
        else:
            timer = self._election.next_deadline()
        return min(timer, self._reads.next_deadline())

    def tick(self, now: float) -> None:
        self._at(now)
        if self._failed:
            return
        self._reads.tick()
        if self._leadership is not None:
            self._leadership.tick(writing_since=self._outstanding[2] if self._outstanding else None)
            self._end_if_over()
        elif self._election.next_deadline() <= now:
            self._campaign()

    def _at(self, now: float) -> None:
        assert now >= self._core.now, "time runs backwards"
        self._core.now = now

    # --- requests ---------------------------------------------------------------------------------------------

    def propose(self, now: float, payloads: Sequence[bytes]) -> tuple[int, int] | Refusal:
        """Append these as consecutive NORMAL entries.

        Returns:
            (index of the first, term). They are committed when an entry of that index *and* term is; if another
            stands there, they are lost. Or why not.
        """
        self._at(now)
        if self._leadership is None:
            return self._not_leader()
        return self._leadership.propose(payloads)

    def change_membership(
        self, now: float, voters: frozenset[NodeId], learners: frozenset[NodeId]
    ) -> int | Refusal:
        """Make these the group's voters and learners. A new voter has to be a learner that caught up.

        Returns:
            The index of the (joint) configuration's entry; the second entry follows by itself. Or why not.
        """
        self._at(now)
        if self._leadership is None:
            return self._not_leader()
        index = self._leadership.change_membership(voters, learners)
        self._end_if_over()
        return index

    def transfer(self, now: float, target: NodeId) -> Refusal | None:
        """Hand leadership to this voter; `TransferEnded` says how it went."""
        self._at(now)
        if self._leadership is None:
            return self._not_leader()
        return self._leadership.start_transfer(target)

    def read_index(self, now: float, token: int) -> None:
        """Ask for a linearizable read; `ReadReady` or `ReadRefused` with this token answers it."""
        self._at(now)
        self._reads.ask(token)

    def step_down(self, now: float, why: str) -> None:
        """Stop leading (a slow loop, a full disk), in favour of the voter that will win."""
        self._at(now)
        if self._leadership is not None:
            self._end_leadership(why)

    def _not_leader(self) -> NotLeader:
        return NotLeader(self._core.leader, "this replica does not lead")

    # --- what the driver tells --------------------------------------------------------------------------------

    def persisted(self, now: float, ticket: PersistTicket) -> None:
        """This write is durable. A completion of an older one says nothing about the present log (pitfall 26)."""
        self._at(now)
        if self._failed or self._outstanding is None or self._outstanding[0] != ticket:
            return
        self._durable = self._outstanding[1]
        self._outstanding = None
        core = self._core
        core.log.stabilized()
        if core.role is RaftRole.CANDIDATE and self._durable == core.hard_state:
            self._decide(self._election.count_own_vote())
        elif self._leadership is not None:
            self._leadership.check_commit()
            self._end_if_over()

    def applied_to(self, now: float, index: int) -> None:
        """The state machine has applied the entries up to this index."""
        self._at(now)
        self._core.log.applied_to(index)
        self._reads.applied_to(self._core.log.applied)
        if self._leadership is not None:
            self._leadership.leave_joint()
            self._end_if_over()

    def snapshot_meta(self, index: int) -> SnapshotMeta:
        """What a snapshot of the state machine at this applied index has to carry (pitfall 16)."""
        log = self._core.log
        term = log.term_at(index)
        assert term is not None and index <= log.applied, f"no snapshot can be taken at {index}"
        return SnapshotMeta(index, term, self._core.members.at(index))

    def snapshot_taken(self, now: float, meta: SnapshotMeta) -> None:
        """A snapshot made here is durable: older entries may go, but for a tail (`Output.compact_to`)."""
        self._at(now)
        config = self._core.config
        self._compact_to = self._core.log.compact(
            meta, keep_entries=config.log_keep_entries, keep_bytes=config.log_keep_bytes
        )
        self._core.members.note_compacted(self._core.log.snapshot)

    def snapshot_chunk(
        self, now: float, to: NodeId, meta: SnapshotMeta, offset: int, payload: bytes, *, done: bool
    ) -> bool:
        """Answers `NeedSnapshot`. Returns whether it was still wanted."""
        self._at(now)
        if self._leadership is None:
            return False
        return self._leadership.give_chunk(to, SnapshotChunk(meta, offset, payload, done))

    def snapshot_installed(self, now: float, meta: SnapshotMeta) -> None:
        """The snapshot of `Output.install` is durable and the state machine is restored from it."""
        self._at(now)
        assert self._receiver.installing == meta, "another snapshot was to be installed"
        self._receiver.finish()
        core = self._core
        core.log.restore(meta)
        core.members.note_restored(meta)
        core.emit(ConfigurationChanged(core.members.current_index, core.members.current))
        self._reads.applied_to(core.log.applied)
        if core.leader is not None:
            core.send_after_persist(core.leader, Appended(meta.index))

    def snapshot_failed(self, now: float, meta: SnapshotMeta) -> None:
        """Its bytes were damaged: the leader begins anew; the log is untouched (pitfall 22)."""
        self._at(now)
        assert self._receiver.installing == meta, "another snapshot was to be installed"
        self._receiver.finish()
        if self._core.leader is not None:
            self._core.send(self._core.leader, SnapshotReply(meta.index, 0))

    def disk_failed(self, now: float) -> None:
        """A durable write failed: nothing may be said any more that rests on this disk (fault D2)."""
        self.step_down(now, "a durable write failed")
        self._failed = True
        self._core.after_persist.clear()

    def peer_link_closed(self, now: float, node_id: NodeId) -> None:
        """The link to this node was closed by the kernel of its machine (FIN or RST): the process is gone (C1)."""
        self._at(now)
        if self._leadership is not None:
            self._leadership.replication.link_closed(node_id)
        elif node_id == self._core.leader:
            self._election.leader_link_closed()

    def set_known_marks(self, known: Mapping[NodeId, bytes]) -> None:
        """The stores that the ledger knows, as of the applied index; replies of others no longer count (T3)."""
        self._fences.set_known(known, index=self._core.log.applied)
        self._fenced.clear()
        if self._leadership is not None:
            for peer in self._leadership.replication.peers.values():
                if peer.store_id is not None and peer.store_id != known.get(peer.node_id, peer.store_id):
                    peer.forget()

    def allow_votes(self, now: float) -> None:
        """The ledger has re-admitted this replica's store."""
        self._at(now)
        self._election.may_vote = True

    def set_round_trip(self, round_trip_s: float) -> None:
        """The measured round trip to the farthest voter: slow links ask for wider timeouts (C1)."""
        wanted = ROUND_TRIPS_PER_ELECTION * round_trip_s / self._core.config.election_min_s
        self._core.pace = max(1.0, wanted)

    # --- messages ---------------------------------------------------------------------------------------------

    def receive(self, now: float, envelope: Envelope) -> None:
        """Take a message; it may be late, doubled, reordered, or from someone who should not speak."""
        self._at(now)
        if self._failed or not self._admits(envelope):
            return
        core = self._core
        sender = envelope.sender
        body = envelope.body
        if isinstance(body, PreVoteRequest):
            self._election.answer_pre_vote(sender.node_id, body)
            return
        if isinstance(body, PreVoteReply):
            self._receive_pre_vote_reply(envelope, body)
            return
        if envelope.term < core.term:
            self._answer_old_term(sender.node_id, body)
            return
        if envelope.term > core.term:
            if isinstance(body, VoteRequest) and not body.transfer and self._election.shields_leader():
                return
            self._become_follower(envelope.term, None)
        if isinstance(body, FROM_LEADER):
            self._hear_leader(sender.node_id)
        self._dispatch(sender, body)

    def _admits(self, envelope: Envelope) -> bool:
        core = self._core
        sender = envelope.sender
        if envelope.group != core.group:
            return False
        if envelope.epoch != core.epoch:
            if envelope.epoch > core.epoch:
                core.emit(NewerEpochSeen(envelope.epoch, sender.node_id))
            elif not isinstance(envelope.body, EpochOver):
                core.send(sender.node_id, EpochOver())
            return False
        why = self._fences.refuse_start(sender)
        if sender.node_id == core.me:
            why = "another one speaks under this node's name"
        elif why is None and isinstance(envelope.body, REPLIES):
            if not core.configuration.includes(sender.node_id):
                return False
            if self._store_is_foreign(sender):
                why = "its store is not the one that the ledger knows"
        if why is not None and self._fenced.get(sender.node_id) != why:
            self._fenced[sender.node_id] = why
            core.emit(MessageFenced(sender.node_id, why))
        return why is None

    def _store_is_foreign(self, mark: ReplicaMark) -> bool:
        """Unless it was made a voter after the ledger's word on its store: see `fences`."""
        return self._fences.knows_other_store(mark) and not self._core.members.was_promoted_after(
            mark.node_id, self._fences.known_at
        )

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
            self._decide(self._election.receive_pre_vote_reply(envelope.sender.node_id, reply))

    def _hear_leader(self, leader: NodeId) -> None:
        core = self._core
        assert core.role is not RaftRole.LEADER, f"{leader} leads in term {core.term}, too"
        if core.leader != leader or core.role is not RaftRole.FOLLOWER:
            self._become_follower(core.term, leader)
        self._election.hear_leader()

    def _dispatch(self, sender: ReplicaMark, body: Body) -> None:
        """A message of the present term."""
        core = self._core
        match body:
            case Append():
                if self._receiver.installing is None and following.well_formed(body):
                    following.receive_append(core, sender.node_id, body)
            case Heartbeat():
                if self._receiver.installing is None:
                    following.receive_heartbeat(core, sender.node_id, body)
                else:
                    core.send(sender.node_id, HeartbeatReply(body.round))
            case SnapshotChunk():
                self._receiver.receive_chunk(sender.node_id, sender.boot_nonce, body)
            case TimeoutNow():
                if self._may_stand():
                    self._start_vote(transfer=True)
            case VoteRequest():
                self._election.answer_vote(sender.node_id, body)
            case VoteReply() if core.role is RaftRole.CANDIDATE:
                self._decide(self._election.receive_vote_reply(sender.node_id, body))
            case ReadRequest():
                self._reads.receive_request(sender, body)
            case ReadReply():
                self._reads.receive_reply(body)
            case _:
                if self._leadership is not None:
                    self._leadership.receive(sender, body)
                    self._end_if_over()

    # --- roles ------------------------------------------------------------------------------------------------

    def _may_stand(self) -> bool:
        """Nobody campaigns with a snapshot pending, a silent disk, or a store that the ledger does not know
        (pitfall 17)."""
        core = self._core
        stalled = self._outstanding is not None and core.now - self._outstanding[2] > core.config.disk_stall_s
        return (
            self._election.may_stand()
            and self._receiver.installing is None
            and not stalled
            and not self._store_is_foreign(core.mark)
        )

    def _campaign(self) -> None:
        """No leader was heard."""
        core = self._core
        had_leader = core.leader is not None
        if self._may_stand():
            result = self._election.start_pre_vote()
        else:
            core.role = RaftRole.FOLLOWER
            core.leader = None
            self._election.reset_timer()
            result = VoteResult.PENDING
        if had_leader:
            self._reads.leader_changed()
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
        self._election.start_vote(transfer=transfer)
        if had_leader:
            self._reads.leader_changed()
            self._core.emit(BecameFollower(self._core.term, None))

    def _become_leader(self) -> None:
        core = self._core
        core.role = RaftRole.LEADER
        core.leader = core.me
        core.emit(BecameLeader(core.term))
        self._leadership = Leadership(core, self._reads)

    def _become_follower(self, term: int, leader: NodeId | None) -> None:
        core = self._core
        was = core.role
        changed = core.leader != leader or was is RaftRole.LEADER
        if self._leadership is not None:
            self._leadership.transfer.end(done=term > core.term)
            self._leadership = None
            self._reads.stop_leading()
        if term > core.term:
            core.enter_term(term, None)
        core.role = RaftRole.FOLLOWER
        core.leader = leader
        if was is not RaftRole.FOLLOWER:
            self._election.reset_timer()
        if changed:
            self._reads.leader_changed()
            core.emit(BecameFollower(term, leader))

    def _end_if_over(self) -> None:
        if self._leadership is not None and self._leadership.over is not None:
            self._end_leadership(self._leadership.over)

    def _end_leadership(self, why: str) -> None:
        """Give up in the present term; the vote in it stays (pitfall 1)."""
        core = self._core
        assert self._leadership is not None, "only a leader gives up"
        self._leadership.hand_over()
        core.emit(SteppedDown(core.term, why))
        self._become_follower(core.term, None)

    # --- the way out ------------------------------------------------------------------------------------------

    def take_output(self) -> Output:
        core = self._core
        if self._leadership is not None:
            self._leadership.flush()
        persist, after = self._take_persist()
        installing = self._receiver.installing is not None
        output = Output(
            persist=persist,
            send=tuple(core.to_send),
            send_after_persist=after,
            committed=() if installing or self._failed else core.log.take_committed(),
            reads=tuple(core.answers),
            snapshot_needed=tuple(core.needs),
            chunks=tuple(core.chunks),
            install=self._receiver.take_install(),
            compact_to=self._compact_to,
            events=tuple(core.events),
        )
        for drained in (core.to_send, core.answers, core.needs, core.chunks, core.events):
            drained.clear()
        self._compact_to = 0
        return output

    def _take_persist(self) -> tuple[Persist | None, tuple[Outgoing, ...]]:
        """At most one write at a time; what is to be said after the next one waits for this one, too."""
        core = self._core
        if self._outstanding is not None or self._failed:
            return None, ()
        hard_state = core.hard_state
        after = tuple(core.after_persist)
        core.after_persist.clear()
        if hard_state == self._durable and not core.log.is_dirty:
            core.to_send.extend(after)
            return None, ()
        reset, truncate_from, entries = core.log.take_unstable()
        self._tickets += 1
        ticket = PersistTicket(self._tickets, core.term, core.log.last_index)
        self._outstanding = (ticket, hard_state, core.now)
        changed = hard_state if hard_state != self._durable else None
        return Persist(ticket, changed, reset, truncate_from, entries), after

    # --- looking ----------------------------------------------------------------------------------------------

    def status(self) -> RaftStatus:
        core = self._core
        leading = self._leadership
        return RaftStatus(
            role=core.role,
            term=core.term,
            leader=core.leader,
            ready=leading is not None and leading.ready,
            commit=core.log.commit,
            applied=core.log.applied,
            first_index=core.log.first_index,
            last_index=core.log.last_index,
            stable_index=core.log.stable,
            snapshot_index=core.log.snapshot.index,
            configuration=core.configuration,
            configuration_index=core.members.current_index,
            uncommitted_bytes=leading.replication.uncommitted_bytes if leading else 0,
            reads_waiting=len(self._reads),
            transferring_to=leading.transfer.target if leading else None,
            progress=leading.statuses() if leading else (),
        )
