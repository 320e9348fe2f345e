"""One group on one node: its log, its state machine, and how it takes part.

A machine: the trio host and the simulator both drive it, and do for it what `GroupOutput` lists. In mode *replica*
(`group_replica`) a Raft replica decides; in mode *observer* (`group_observer`) the committed log is copied from peers.
Both write the same log on the disk, so a node that becomes a voter brings what it copied, and one that ceases to be
one goes on copying behind it.

Everything here is volatile but for three things: hard state, log and snapshots. A `Group` is made from these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf

from consensus.beginnings import recovering_write
from consensus.group_core import GroupCore
from consensus.group_effects import (
    Fenced,
    GroupConfig,
    GroupOutput,
    GroupStatus,
    Mode,
    PeerFacts,
    StateMachine,
)
from consensus.group_observer import Observer
from consensus.group_replica import Replica
from consensus.group_serving import check_asker, pull_answer
from consensus.log_records import GroupWrite, Recovered
from consensus.pull import LOOK_AROUND_S, Piece, PieceRequest, PullAnswer, PullRequest
from consensus.raft.messages import (
    FROM_LEADER,
    Configuration,
    Envelope,
    PreVoteRequest,
    ReplicaMark,
    SnapshotMeta,
    VoteRequest,
)
from consensus.raft.outputs import (
    BecameFollower,
    Busy,
    LeaderReady,
    NewerEpochSeen,
    NotAllowed,
    NotLeader,
    ReadRefused,
    Refusal,
)
from mesh.machine import ASLEEP
from mesh.names import MeshId, NodeId


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
        self._core = GroupCore(
            config,
            me,
            group=group,
            mesh_id=mesh_id,
            recovered=recovered,
            snapshot=snapshot,
            new_machine=new_machine,
            facts=facts,
            now=now,
        )
        self._rng = rng
        self._replica: Replica | None = None
        self._observer = Observer(self._core, rng)
        self._left_behind_at = -1  # where a replica stood when it heard that the group went on without it; else -1
        self._newest_epoch = 0  # that was heard of
        self._choose_mode()

    # --- time -------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When to `tick`; the time that was, if something is due at once."""
        raft = ASLEEP if self._replica is None else min(self._replica.raft.next_deadline(), self._lost_at())
        core = self._core
        return min(raft, self._observer.puller.next_deadline(), core.log.note_at, core.outgoing.drop_at)

    def tick(self, now: float) -> None:
        """Note the time; fire what is due."""
        core = self._core
        core.now = now
        if self._replica is not None:
            self._replica.raft.tick(now)
            if now >= self._lost_at():
                self._observer.puller.start(now, patient=False)
        self._observer.puller.tick(now)
        core.log.tick(now)
        core.outgoing.tick(now)

    def _lost_at(self) -> float:
        """When a replica that hears no leader begins to ask its peers whether the group went on without it."""
        core = self._core
        if self._replica is None or self._observer.puller.is_running or core.is_leader:
            return ASLEEP
        heard_at = -inf if core.is_stranger() else core.heard_at
        patience_s = core.config.lost_s if core.told_leader is None else LOOK_AROUND_S
        return max(heard_at, self._replica.started_at) + patience_s

    # --- requests ---------------------------------------------------------------------------------------------

    def propose(self, now: float, token: int, payload: bytes) -> Refusal | None:
        """Have this applied: `Settled` with the token tells the end. Or why it was not taken; then nothing happened."""
        self._core.now = now
        return self._not_leader() if self._replica is None else self._replica.propose(token, payload)

    def read(self, now: float, token: int) -> None:
        """Ask for a linearizable read; `ReadReady` or `ReadRefused` with this token answers."""
        self._core.now = now
        if self._replica is None:
            self._core.reads.append(ReadRefused(token, "this node is an observer"))
        else:
            self._replica.read(token)

    def change_membership(
        self, now: float, voters: frozenset[NodeId], learners: frozenset[NodeId]
    ) -> int | Refusal:
        """Make these the voters and learners; see `Raft.change_membership`."""
        self._core.now = now
        if self._replica is None:
            return self._not_leader()
        return self._replica.raft.change_membership(now, voters, learners)

    def transfer(self, now: float, target: NodeId) -> Refusal | None:
        """Hand leadership to this voter."""
        self._core.now = now
        return self._not_leader() if self._replica is None else self._replica.raft.transfer(now, target)

    def step_down(self, now: float, why: str) -> None:
        """Stop leading, in favour of the voter that will win; a slow loop asks for it."""
        self._core.now = now
        if self._replica is not None:
            self._replica.raft.step_down(now, why)

    def set_read_only(self, now: float, why: str) -> None:
        """Refuse proposals from now on, and hand over; "" ends it. A full disk says so again and again (fault D7)."""
        core = self._core
        core.now = now
        if core.hands_over(why):
            self.step_down(now, why)
        core.read_only = why

    def recover(self, now: float, epoch: int) -> Refusal | None:
        """Open the next epoch with this node as the only voter; an operator's decision alone (rule T5)."""
        core = self._core
        core.now = now
        if self.leader is not None or not core.log.is_quiet:
            return Busy(self.leader, "there is a leader" if self.leader is not None else "a write is under way")
        if epoch != core.log.epoch + 1:
            return NotAllowed(None, f"this node is in epoch {core.log.epoch}")
        self._become_observer()
        self._observer.puller.stop()
        core.log.queue(recovering_write(core.me, epoch, core.log.mirror.last, group=core.group))
        return None

    def _not_leader(self) -> NotLeader:
        return NotLeader(self._core.leader, "this node is an observer")

    # --- what the network brings ------------------------------------------------------------------------------

    def receive(self, now: float, envelope: Envelope) -> None:
        """Take a Raft message. A leader, or someone who wants to be, makes an observer a replica.

        But not one whose memory its copy of the ledger does not know: its answers would not be heard, and as long as
        it hears a leader it would not copy what it needs to be known again (fault D5).
        """
        core = self._core
        core.now = now
        if self._replica is None:
            calls = isinstance(envelope.body, (*FROM_LEADER, VoteRequest, PreVoteRequest))
            if not calls or envelope.epoch != core.log.epoch or not core.log.is_quiet or not core.is_known():
                return
            self._become_replica()
        assert self._replica is not None
        self._replica.receive(envelope)

    def peer_link_closed(self, now: float, node_id: NodeId) -> None:
        """The link to this node was closed by its machine's kernel: its process is gone (C1)."""
        self._core.now = now
        if self._replica is not None:
            self._replica.raft.peer_link_closed(now, node_id)

    def set_round_trip(self, round_trip_s: float) -> None:
        """The measured round trip to the farthest voter."""
        if self._replica is not None:
            self._replica.raft.set_round_trip(round_trip_s)

    def set_sources(self, now: float, sources: Sequence[NodeId]) -> None:
        """The trusted peers that could be asked for the committed log now."""
        self._core.now = now
        self._observer.puller.set_sources(sources, now)

    def catch_up(self, now: float) -> None:
        """There is a sign that this copy is behind: ask a peer now."""
        self._core.now = now
        if not self._core.is_leader:
            self._observer.puller.start(now, patient=self._replica is None)
            self._observer.puller.hurry(now)

    def set_mesh(self, mesh_id: MeshId) -> None:
        """The state names its mesh."""
        self._core.mesh_id = self._observer.puller.mesh_id = mesh_id

    def pull_answered(self, now: float, number: int, answer: PullAnswer | Piece) -> None:
        """A peer answered `GroupOutput.pull`."""
        self._core.now = now
        is_news = self._observer.answered(number, answer, observing=self._replica is None)
        if is_news and isinstance(answer, PullAnswer):
            # The group went on without this replica; only an observer can take over what was agreed meanwhile.
            self._become_observer()
            self._left_behind_at = self._core.machine.applied
            self._observer.take(answer)

    def pull_failed(self, now: float, number: int, code: str) -> None:
        """It did not answer, or refused with this code."""
        self._core.now = now
        if code == "fenced.diverged":
            why = "it belongs to a history that was given up"
            self._core.events.append(Fenced(why))
        self._observer.puller.failed(now, number)
        self._left_behind_at = -1

    # --- what others ask --------------------------------------------------------------------------------------

    def serve_pull(self, now: float, request: PullRequest) -> PullAnswer:
        """Committed entries for a peer that copies the log.

        Raises:
            RefusedError: It is not of this mesh, of an unknown epoch, or holds another history.
        """
        core = self._core
        core.now = now
        check_asker(request, core.mesh_id, core.log.epoch)
        return pull_answer(
            request,
            core.log.mirror,
            applied=core.machine.applied,
            epoch=core.log.epoch,
            leader=self.leader,
            term=core.term_seen,
            age_s=core.age(now),
        )

    def serve_piece(self, now: float, request: PieceRequest) -> Piece:
        """Bytes of a snapshot for a peer that is too far behind for entries."""
        core = self._core
        check_asker(request, core.mesh_id, core.log.epoch)
        return core.outgoing.piece(request.index, request.offset, at_least=core.log.mirror.base, now=now)

    # --- what the disk has done -------------------------------------------------------------------------------

    def written(self, now: float) -> None:
        """The write that was taken last is durable."""
        core = self._core
        core.now = now
        done = core.log.written()
        # What was to be said in an earlier term goes unsaid: nobody there is listening any more.
        term = self._term()
        core.send += [outgoing for outgoing in done.then_send if outgoing.envelope.term >= term]
        if self._replica is not None and done.ticket is not None:
            self._replica.persisted(done.ticket)

    def disk_failed(self, now: float) -> None:
        """A durable write failed: this replica says nothing any more; the process ends (fault D2)."""
        self._core.now = now
        if self._replica is not None:
            self._replica.raft.disk_failed(now)

    def snapshot_saved(self, now: float, meta: SnapshotMeta) -> None:
        """The snapshot that was taken last is durable."""
        core = self._core
        core.now = now
        saved = core.log.saved(meta)
        if saved is None:
            return
        save, is_install = saved
        if is_install:
            core.machine.restore(save.payload)
            core.note_applied()
        if self._replica is not None:
            self._replica.snapshot_saved(meta, is_install=is_install)
        elif is_install and not core.log.mirror.reaches_snapshot:
            core.log.queue(GroupWrite(core.group, reset_to=meta.index))
        elif not is_install:
            core.compact_to = max(0, meta.index - core.config.raft.log_keep_entries)

    def snapshot_not_saved(self, now: float, meta: SnapshotMeta) -> None:
        """The disk was full: nothing changed."""
        self._core.now = now
        if self._core.log.not_saved(meta, now) and self._replica is not None:
            self._replica.install_failed(meta)

    # --- looking ----------------------------------------------------------------------------------------------

    @property
    def machine(self) -> StateMachine:
        """The state machine; to be read only."""
        return self._core.machine

    @property
    def mode(self) -> Mode:
        return Mode.OBSERVER if self._replica is None else Mode.REPLICA

    @property
    def is_leader(self) -> bool:
        """Leads, and its own no-op is committed (pitfall 4)."""
        return self._core.is_leader

    @property
    def leader(self) -> NodeId | None:
        """Whom this node takes for the leader: by itself, or on hearsay, which does not last for ever."""
        return self._core.known_leader(observing=self._replica is None)

    @property
    def is_hearsay(self) -> bool:
        """A replica that knows its leader through others alone."""
        return self._replica is not None and self._core.leader is None and self.leader is not None

    @property
    def configuration(self) -> Configuration:
        """The newest one in the log, committed or not."""
        return self._core.log.mirror.acting if self._replica is None else self._replica.status().configuration

    def age(self, now: float) -> float:
        """Seconds since this copy was known to be a live leader's; inf: never since the start."""
        return self._core.age(now)

    def status(self) -> GroupStatus:
        core = self._core
        raft = self._replica.status() if self._replica is not None else None
        return GroupStatus(
            mesh_id=core.mesh_id,
            epoch=core.log.epoch,
            mode=self.mode,
            leader=self.leader,
            is_leader=core.is_leader,
            term=raft.term if raft is not None else core.term_seen,
            commit=raft.commit if raft is not None else core.machine.applied,
            applied=core.machine.applied,
            last_index=raft.last_index if raft is not None else core.log.mirror.last,
            snapshot_index=core.log.mirror.snapshot.index,
            configuration=self.configuration,
            heard_at=core.now if core.is_leader else core.heard_at,
            raft=raft,
        )

    def last_entry(self) -> tuple[int, int]:
        """Term and index of the last durable entry."""
        log = self._core.log.mirror
        term = log.term_at(log.last)
        return (0 if term is None else term), log.last

    def _term(self) -> int:
        return self._core.log.hard_state.term if self._replica is None else self._replica.status().term

    # --- the way out ------------------------------------------------------------------------------------------

    def take_output(self) -> GroupOutput:
        """What is to be done; see `GroupOutput`."""
        core = self._core
        if self._replica is not None:
            self._drain(self._replica)
        elif core.log.is_quiet:
            self._observer.advance()
        if core.log.wants_snapshot(core.machine.applied, core.config.snapshot_entries, core.now):
            core.log.save(*core.take_snapshot())
        self._choose_mode()
        return core.drain(pull=self._observer.puller.take())

    def _drain(self, replica: Replica) -> None:
        core = self._core
        events = replica.drain()
        core.events += events
        for event in events:
            if isinstance(event, NewerEpochSeen):
                self._newest_epoch = max(self._newest_epoch, event.epoch)
        if self._newest_epoch > core.log.epoch:
            # The mesh was recovered without this replica, whatever leader it may still hear (rule T5).
            self._observer.puller.start(core.now, patient=False)
        elif (
            core.leader is not None
            and not core.is_stranger()
            and any(isinstance(event, BecameFollower | LeaderReady) for event in events)
        ):
            self._observer.puller.stop()

    # --- modes ------------------------------------------------------------------------------------------------

    def _choose_mode(self) -> None:
        """Follow the configuration, when nothing is on its way to the disk."""
        core = self._core
        if not core.log.is_quiet:
            return
        included = core.log.mirror.acting.includes(core.me)
        if self._replica is None and included and core.machine.applied != self._left_behind_at:
            self._become_replica()
        elif self._replica is not None and not included and core.leader is None:
            heard_at = max(core.heard_at, self._replica.started_at)
            if core.now >= heard_at + core.config.raft.election_max_s:
                self._become_observer()
        if self._replica is None:
            self._observer.puller.start(core.now)

    def _become_replica(self) -> None:
        self._left_behind_at = -1
        self._observer.puller.stop()
        self._replica = Replica(self._core, self._rng)

    def _become_observer(self) -> None:
        assert self._core.log.is_quiet, "nothing may be on its way to the disk"
        if self._replica is not None:
            self._replica.end()
        self._replica = None
