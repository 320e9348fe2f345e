"""One group on one node: its log, its state machine, and how it takes part.

A machine: the trio host and the simulator both drive it, and do for it what `GroupOutput` lists. In mode *replica* a
Raft replica decides; in mode *observer* the committed log is copied from peers (`pull`). Both write the same log on
the disk, so a node that becomes a voter brings what it copied, and one that ceases to be goes on copying behind it.

Everything here is volatile but for three things: hard state, log and snapshots. A `Group` is made from these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf

from consensus.group_effects import (
    Fenced,
    GroupConfig,
    GroupOutput,
    GroupStatus,
    Mode,
    PeerFacts,
    Settled,
    StateMachine,
)
from consensus.group_log import GroupLog
from consensus.group_serving import OutgoingSnapshot, check_asker, pull_answer
from consensus.log_records import GroupWrite, Recovered
from consensus.pull import Piece, PieceRequest, PullAnswer, PulledSnapshot, Puller, PullRequest
from consensus.raft.messages import (
    FROM_LEADER,
    RAFT,
    Configuration,
    EntryKind,
    Envelope,
    HardState,
    LogEntry,
    PreVoteRequest,
    ReplicaMark,
    SnapshotMeta,
    VoteRequest,
    configuration_of,
)
from consensus.raft.outputs import (
    BecameFollower,
    BecameLeader,
    Busy,
    Event,
    LeaderReady,
    NewerEpochSeen,
    NotLeader,
    Outgoing,
    Output,
    ReadReady,
    ReadRefused,
    Refusal,
    SteppedDown,
)
from consensus.raft.raft import Raft
from mesh.errors import DamagedError
from mesh.machine import ASLEEP
from mesh.names import MeshId, NodeId

LEDGER_GROUP = 0


def founding_write(node_id: NodeId, *, group: int = LEDGER_GROUP) -> GroupWrite:
    """What the founder of a group writes into its empty log: a configuration with itself as the only voter."""
    entry = LogEntry(1, 1, EntryKind.CONFIG, RAFT.encode(configuration_of(frozenset({node_id}))))
    return GroupWrite(group, hard_state=HardState(1, None), entries=(entry,), epoch=1)


class Group:
    """A group's replica or observer.

    Args:
        config: Its constants.
        me: This node's memory and start.
        group: Its number.
        mesh_id: Whose it is; peers of another mesh are not answered.
        recovered: What the log store had of it.
        snapshot: What the snapshot store had of it: the newest readable one.
        new_machine: Makes an empty state machine.
        facts: What a state machine says of a node's memory; asked after each apply.
        rng: For election timeouts and jitter.
        now: The time.

    Raises:
        DamagedError: Snapshot and log do not fit together.
    """

    def __init__(
        self,
        config: GroupConfig,
        me: ReplicaMark,
        *,
        group: int,
        mesh_id: MeshId,
        recovered: Recovered,
        snapshot: tuple[SnapshotMeta, bytes] | None,
        new_machine: Callable[[], StateMachine],
        facts: Callable[[StateMachine], PeerFacts],
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._me = me
        self._group = group
        self._mesh_id = mesh_id
        self._new_machine = new_machine
        self._rng = rng
        self._now = now
        self._started_at = now
        self.machine = new_machine()
        self._facts = facts(self.machine)
        self._log = GroupLog(
            group, recovered, None if snapshot is None else snapshot[0], commit_note_s=config.commit_note_s
        )
        self._raft: Raft | None = None
        self._is_leader = False
        self._leader: NodeId | None = None
        self._term_seen = recovered.hard_state.term
        self._heard_at = -inf
        self._commit_target = 0  # in mode observer: what the peers said is committed
        self._pending: dict[int, tuple[int, int]] = {}  # index → term, token
        self._known: dict[NodeId, bytes] | None = None
        self._known_for: Configuration | None = None
        self._was_known = False
        self._received = bytearray()
        self._outgoing = OutgoingSnapshot(self._take_snapshot)
        self._puller = Puller(mesh_id, group, self._log.epoch, position=self._position, rng=rng)
        self._read_only = ""
        self._send: list[Outgoing] = []
        self._settled: list[Settled] = []
        self._reads: list[ReadReady | ReadRefused] = []
        self._events: list[Event | Fenced] = []
        self._compact_to = 0
        if snapshot is not None:
            self.machine.restore(snapshot[1])
        log = self._log.mirror
        self._apply(log.entries(log.snapshot.index + 1, min(recovered.commit, log.last)))
        self._choose_mode()

    # --- time -------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When to `tick`; the time that was, if something is due at once."""
        raft = ASLEEP if self._raft is None else min(self._raft.next_deadline(), self._lost_at())
        return min(raft, self._puller.next_deadline(), self._log.note_at, self._outgoing.drop_at)

    def tick(self, now: float) -> None:
        """Note the time; fire what is due."""
        self._now = now
        if self._raft is not None:
            self._raft.tick(now)
            if now >= self._lost_at():
                self._puller.start(now, patient=False)
        self._puller.tick(now)
        self._log.tick(now)
        self._outgoing.tick(now)

    def _lost_at(self) -> float:
        """When a replica that hears no leader begins to ask its peers whether the group went on without it."""
        if self._puller.is_running or self._is_leader:
            return ASLEEP
        return max(self._heard_at, self._started_at) + self._config.lost_s

    # --- requests ---------------------------------------------------------------------------------------------

    def propose(self, now: float, token: int, payload: bytes) -> Refusal | None:
        """Have this applied: `Settled` with the token tells the end. Or why it was not taken; then nothing happened."""
        self._now = now
        if self._raft is None:
            return NotLeader(self._leader, "this node is an observer")
        if self._read_only:
            return Busy(self._me.node_id, self._read_only)
        if len(self._pending) >= self._config.pending_max:
            return Busy(self._me.node_id, f"{self._config.pending_max} proposals are waiting here")
        taken = self._raft.propose(now, [payload])
        if isinstance(taken, Refusal):
            return taken
        index, term = taken
        self._pending[index] = (term, token)
        return None

    def read(self, now: float, token: int) -> None:
        """Ask for a linearizable read; `ReadReady` or `ReadRefused` with this token answers."""
        self._now = now
        if self._raft is None:
            self._reads.append(ReadRefused(token, "this node is an observer"))
        else:
            self._raft.read_index(now, token)

    def change_membership(
        self, now: float, voters: frozenset[NodeId], learners: frozenset[NodeId]
    ) -> int | Refusal:
        """Make these the voters and learners; see `Raft.change_membership`."""
        self._now = now
        if self._raft is None:
            return NotLeader(self._leader, "this node is an observer")
        return self._raft.change_membership(now, voters, learners)

    def transfer(self, now: float, target: NodeId) -> Refusal | None:
        """Hand leadership to this voter."""
        self._now = now
        if self._raft is None:
            return NotLeader(self._leader, "this node is an observer")
        return self._raft.transfer(now, target)

    def step_down(self, now: float, why: str) -> None:
        """Stop leading, in favour of the voter that will win; a slow loop asks for it."""
        self._now = now
        if self._raft is not None:
            self._raft.step_down(now, why)

    def set_read_only(self, now: float, why: str) -> None:
        """Refuse proposals from now on, and hand over; "" ends it. A full disk asks for it (fault D7)."""
        self._now = now
        if why and not self._read_only and len(self._log.mirror.acting.all_voters()) > 1:
            self.step_down(now, why)
        self._read_only = why

    # --- what the network brings ------------------------------------------------------------------------------

    def receive(self, now: float, envelope: Envelope) -> None:
        """Take a Raft message. A leader, or someone who wants to be, makes an observer a replica."""
        self._now = now
        body = envelope.body
        if self._raft is None:
            speaks_to_replicas = isinstance(body, (*FROM_LEADER, VoteRequest, PreVoteRequest))
            if not speaks_to_replicas or envelope.epoch != self._log.epoch or not self._log.is_quiet:
                return
            self._start_raft()
        assert self._raft is not None
        self._raft.receive(now, envelope)
        if isinstance(body, FROM_LEADER) and self._raft.status().leader == envelope.sender.node_id:
            self._heard_at = now
            self._term_seen = max(self._term_seen, envelope.term)

    def peer_link_closed(self, now: float, node_id: NodeId) -> None:
        """The link to this node was closed by its machine's kernel: its process is gone (C1)."""
        self._now = now
        if self._raft is not None:
            self._raft.peer_link_closed(now, node_id)

    def set_round_trip(self, round_trip_s: float) -> None:
        """The measured round trip to the farthest voter."""
        if self._raft is not None:
            self._raft.set_round_trip(round_trip_s)

    def set_sources(self, now: float, sources: Sequence[NodeId]) -> None:
        """The trusted peers that could be asked for the committed log now."""
        self._now = now
        self._puller.set_sources(sources, now)

    def catch_up(self, now: float) -> None:
        """There is a sign that this copy is behind: ask a peer now."""
        self._now = now
        if not self._is_leader:
            self._puller.start(now, patient=self._raft is None)
            self._puller.hurry(now)

    def set_mesh(self, mesh_id: MeshId) -> None:
        """The state names its mesh."""
        self._mesh_id = self._puller.mesh_id = mesh_id

    def pull_answered(self, now: float, number: int, answer: PullAnswer | Piece) -> None:
        """A peer answered `GroupOutput.pull`."""
        self._now = now
        taken = self._puller.answered(now, number, answer)
        if isinstance(taken, PullAnswer):
            self._take_pulled(now, taken)
        elif taken is not None:
            self._take_pulled_snapshot(now, taken)

    def pull_failed(self, now: float, number: int, code: str) -> None:
        """It did not answer, or refused with this code."""
        self._now = now
        if code == "fenced.diverged":
            self._events.append(Fenced("this node's history is not the mesh's: it belongs to one that was given up"))
        self._puller.failed(now, number)

    # --- what others ask --------------------------------------------------------------------------------------

    def serve_pull(self, now: float, request: PullRequest) -> PullAnswer:
        """Committed entries for a peer that copies the log.

        Raises:
            RefusedError: It is not of this mesh, of an unknown epoch, or holds another history.
        """
        check_asker(request, self._mesh_id, self._log.epoch)
        return pull_answer(
            request,
            self._log.mirror,
            applied=self.machine.applied,
            epoch=self._log.epoch,
            leader=self._leader,
            term=self._term_seen,
            age_s=self.age(now),
        )

    def serve_piece(self, now: float, request: PieceRequest) -> Piece:
        """Bytes of a snapshot for a peer that is too far behind for entries."""
        check_asker(request, self._mesh_id, self._log.epoch)
        return self._outgoing.piece(request.index, request.offset, at_least=self._log.mirror.base, now=now)

    # --- what the disk has done -------------------------------------------------------------------------------

    def written(self, now: float) -> None:
        """The write that was taken last is durable."""
        self._now = now
        done = self._log.written()
        # What was to be said in an earlier term goes unsaid: nobody there is listening any more.
        self._send += [outgoing for outgoing in done.then_send if outgoing.envelope.term >= self._term()]
        if self._raft is not None and done.ticket is not None:
            self._raft.persisted(now, done.ticket)

    def disk_failed(self, now: float) -> None:
        """A durable write failed: this replica says nothing any more; the process ends (fault D2)."""
        self._now = now
        if self._raft is not None:
            self._raft.disk_failed(now)

    def snapshot_saved(self, now: float, meta: SnapshotMeta) -> None:
        """The snapshot that was taken last is durable."""
        self._now = now
        saved = self._log.saved(meta)
        if saved is None:
            return
        save, is_install = saved
        if is_install:
            self.machine.restore(save.payload)
            if self._raft is not None:
                self._raft.snapshot_installed(now, meta)
            elif not self._log.mirror.reaches_snapshot:
                self._log.queue(GroupWrite(self._group, reset_to=meta.index))
            self._note_applied()
        elif self._raft is not None:
            self._raft.snapshot_taken(now, meta)
        else:
            self._compact_to = max(0, meta.index - self._config.raft.log_keep_entries)

    def snapshot_not_saved(self, now: float, meta: SnapshotMeta) -> None:
        """The disk was full: nothing changed."""
        self._now = now
        if self._log.not_saved(meta, now) and self._raft is not None:
            self._raft.snapshot_failed(now, meta)

    # --- looking ----------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Leads, and its own no-op is committed (pitfall 4)."""
        return self._is_leader

    @property
    def leader(self) -> NodeId | None:
        """Whom this node takes for the leader."""
        return self._leader

    @property
    def mode(self) -> Mode:
        return Mode.OBSERVER if self._raft is None else Mode.REPLICA

    @property
    def configuration(self) -> Configuration:
        """The newest one in the log, committed or not."""
        return self._log.mirror.acting if self._raft is None else self._raft.status().configuration

    def age(self, now: float) -> float:
        """Seconds since this copy was known to be a live leader's; inf: never since the start."""
        return 0.0 if self._is_leader else now - self._heard_at

    def status(self) -> GroupStatus:
        raft = self._raft.status() if self._raft is not None else None
        return GroupStatus(
            mesh_id=self._mesh_id,
            epoch=self._log.epoch,
            mode=self.mode,
            leader=self._leader,
            is_leader=self._is_leader,
            term=self._term() if raft is not None else self._term_seen,
            commit=raft.commit if raft is not None else self.machine.applied,
            applied=self.machine.applied,
            last_index=raft.last_index if raft is not None else self._log.mirror.last,
            snapshot_index=self._log.mirror.snapshot.index,
            configuration=self.configuration,
            heard_at=self._now if self._is_leader else self._heard_at,
            raft=raft,
        )

    def _term(self) -> int:
        return self._log.hard_state.term if self._raft is None else self._raft.status().term

    # --- the way out ------------------------------------------------------------------------------------------

    def take_output(self) -> GroupOutput:
        """What is to be done; see `GroupOutput`."""
        while self._raft is not None:
            output = self._raft.take_output()
            self._absorb(output)
            if not (output.committed or output.snapshot_needed or output.install):
                break  # nothing that was just done can have made more ready
        self._observe()
        if self._log.wants_snapshot(self.machine.applied, self._config.snapshot_entries, self._now):
            self._log.save(*self._take_snapshot())
        self._choose_mode()
        if self._compact_to:
            self._log.mirror.note_compacted(self._compact_to)
        output_now = GroupOutput(
            send=tuple(self._send),
            write=self._log.take_write(),
            save=self._log.take_save(),
            compact_to=self._compact_to,
            pull=self._puller.take(),
            settled=tuple(self._settled),
            reads=tuple(self._reads),
            events=tuple(self._events),
            applied_to=self.machine.applied,
        )
        for drained in (self._send, self._settled, self._reads, self._events):
            drained.clear()
        self._compact_to = 0
        return output_now

    def _absorb(self, output: Output) -> None:
        """Take over what the Raft replica wants done; first what it says is committed, so that a write notes it."""
        assert self._raft is not None
        self._send += output.send
        self._note_events(output.events)
        if output.committed:
            self._apply(output.committed)
            self._raft.applied_to(self._now, self.machine.applied)
        if output.persist is not None:
            persist = output.persist
            write = GroupWrite(
                self._group,
                hard_state=persist.hard_state,
                truncate_from=persist.truncate_from,
                entries=persist.entries,
                reset_to=persist.reset_to.index if persist.reset_to is not None else 0,
            )
            self._log.queue(write, ticket=persist.ticket, then_send=output.send_after_persist)
        else:
            self._send += output.send_after_persist
        self._reads += output.reads
        for need in output.snapshot_needed:
            base = self._log.mirror.base
            piece = self._outgoing.piece(need.index, need.offset, at_least=base, now=self._now)
            self._raft.snapshot_chunk(self._now, need.to, piece.meta, piece.offset, piece.payload, done=piece.done)
        for chunk in output.chunks:
            if chunk.offset == 0:
                self._received.clear()
            self._received += chunk.payload
        if output.install is not None:
            self._install(output.install.meta, bytes(self._received))
            self._received.clear()
        self._compact_to = max(self._compact_to, output.compact_to)
        if any(isinstance(event, SteppedDown | BecameFollower) for event in output.events):
            self._settle_all()

    def _note_events(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case BecameLeader():
                    self._leader = self._me.node_id
                case LeaderReady():
                    self._is_leader = True
                    self._puller.stop()
                case SteppedDown():
                    self._leader = None
                    self._end_leading()
                case BecameFollower():
                    self._leader = event.leader
                    self._end_leading()
                    if event.leader is not None:
                        self._puller.stop()
                case NewerEpochSeen():
                    self._puller.start(self._now, patient=False)
                case _:
                    pass
        self._events += events

    def _end_leading(self) -> None:
        if self._is_leader:
            self._heard_at = self._now
        self._is_leader = False

    # --- applying ---------------------------------------------------------------------------------------------

    def _apply(self, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            if entry.index <= self.machine.applied:
                continue  # the snapshot holds it (pitfall 23)
            result: bytes | None = None
            if entry.kind is EntryKind.NORMAL:
                result = self.machine.apply(entry.index, entry.term, entry.payload)
            else:
                self.machine.advance(entry.index)
            term, token = self._pending.pop(entry.index, (0, 0))
            if term:
                self._settled.append(Settled(token, entry.index, result if term == entry.term else None))
        if entries:
            self._note_applied()

    def _note_applied(self) -> None:
        """The state is another: note how far, and whose memory it knows by now."""
        self._log.note_commit(self.machine.applied, self._now)
        self._tell_facts()

    def _tell_facts(self) -> None:
        mine = self._facts(self._me.node_id)
        if mine is not None and mine.store_id == self._me.store_id:
            self._was_known = True
        elif mine is not None and self._was_known:
            self._events.append(Fenced("another copy of this node has registered a log of its own"))
        if self._raft is None:
            return
        members = self.configuration
        facts = {node_id: self._facts(node_id) for node_id in members.everyone()}
        known = {node_id: fact.store_id for node_id, fact in facts.items() if fact is not None}
        if known != self._known or members != self._known_for:
            self._known, self._known_for = known, members
            self._raft.set_known_marks(known)
        if self._may_vote():
            self._raft.allow_votes(self._now)

    def _may_vote(self) -> bool:
        """Whether this replica remembers what it promised; a founder is known to nobody yet."""
        mine = self._facts(self._me.node_id)
        if mine is None:
            return self._log.mirror.acting.includes(self._me.node_id)
        return mine.may_vote and mine.store_id == self._me.store_id

    def _settle_all(self) -> None:
        """Leadership is over: whoever waits has to ask the next leader what became of it."""
        self._settled += [Settled(token, index, None) for index, (_, token) in self._pending.items()]
        self._pending.clear()

    # --- snapshots --------------------------------------------------------------------------------------------

    def _take_snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """Of the state as it is now."""
        index, term = self._position()
        return SnapshotMeta(index, term, self._log.mirror.configuration_at(index)), self.machine.snapshot()

    def _install(self, meta: SnapshotMeta, payload: bytes) -> None:
        """Have a snapshot from elsewhere saved, if it can be read; then it is installed."""
        try:
            self._new_machine().restore(payload)
        except DamagedError:
            if self._raft is not None:
                self._raft.snapshot_failed(self._now, meta)
            return
        self._log.save(meta, payload, is_install=True)

    # --- modes ------------------------------------------------------------------------------------------------

    def _choose_mode(self) -> None:
        """Follow the configuration, when nothing is on its way to the disk."""
        if not self._log.is_quiet:
            return
        included = self._log.mirror.acting.includes(self._me.node_id)
        if self._raft is None and included:
            self._start_raft()
        elif self._raft is not None and not included and self._leader is None and not self._raft_heard_lately():
            self._drop_raft()
        if self._raft is None:
            self._puller.start(self._now)

    def _raft_heard_lately(self) -> bool:
        return self._now < max(self._heard_at, self._started_at) + self._config.raft.election_max_s

    def _start_raft(self) -> None:
        """Become a replica, from what the disk has."""
        log = self._log.mirror
        self._puller.stop()
        self._started_at = self._now
        self._known = self._known_for = None
        self._raft = Raft(
            self._config.raft,
            self._me,
            group=self._group,
            epoch=self._log.epoch,
            hard_state=self._log.hard_state,
            snapshot=log.snapshot,
            entries=log.entries(log.base + 1, log.last),
            applied=self.machine.applied,
            rng=self._rng,
            now=self._now,
            may_vote=self._may_vote(),
        )
        self._leader = None
        self._tell_facts()

    def _drop_raft(self) -> None:
        """Become an observer. What Raft knew and the disk does not is forgotten, as in a restart."""
        assert self._log.is_quiet, "nothing may be on its way to the disk"
        self._settle_all()
        self._raft = None
        self._end_leading()
        self._leader = None

    # --- observing --------------------------------------------------------------------------------------------

    def _position(self) -> tuple[int, int]:
        index = self.machine.applied
        term = self._log.mirror.term_at(index)
        assert term is not None, f"entry {index} was applied and its term is not known"
        return index, term

    def _take_pulled(self, now: float, answer: PullAnswer) -> None:
        """Entries that a peer says are committed. A replica that was left behind becomes an observer to take them."""
        news = answer.commit > self.machine.applied and (answer.entries or answer.use_snapshot)
        if self._raft is not None:
            if not news or not self._log.is_quiet:
                self._puller.go_on(now)
                return
            self._drop_raft()
        self._heard_at = max(self._heard_at, now - answer.heard_ms_ago / 1000)
        self._leader = answer.leader
        self._term_seen = max(self._term_seen, answer.term)
        if answer.entries and self._log.is_quiet and answer.entries[0].index <= self.machine.applied + 1:
            self._copy(answer)
        elif not answer.use_snapshot:
            self._puller.go_on(now)

    def _copy(self, answer: PullAnswer) -> None:
        """Write what is not there yet; a tail that was never committed gives way to what was."""
        log = self._log.mirror
        entries = [entry for entry in answer.entries if log.term_at(entry.index) != entry.term]
        self._commit_target = min(answer.commit, answer.entries[-1].index)
        newer_epoch = answer.epoch if answer.epoch > self._log.epoch else 0
        if not entries and not newer_epoch:
            return
        first = entries[0].index if entries else log.last + 1
        write = GroupWrite(
            self._group,
            truncate_from=first if first <= log.last else None,
            entries=tuple(entry for entry in answer.entries if entry.index >= first),
            epoch=newer_epoch,
        )
        self._log.queue(write)

    def _take_pulled_snapshot(self, now: float, pulled: PulledSnapshot) -> None:
        if self._raft is None and self._log.is_quiet and pulled.meta.index > self.machine.applied:
            self._install(pulled.meta, pulled.payload)
        else:
            self._puller.go_on(now)

    def _observe(self) -> None:
        """In mode observer: apply what was copied and is durable, then ask for more."""
        if self._raft is not None or not self._log.is_quiet:
            return
        log = self._log.mirror
        applied = self.machine.applied
        if self._commit_target > applied:
            self._apply(log.entries(applied + 1, min(self._commit_target, log.last)))
        self._puller.epoch = self._log.epoch
        self._puller.go_on(self._now)
