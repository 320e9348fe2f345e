"""One replica of one Raft group, as its driver sees it: inputs, one way out, a status.

A machine (see `mesh.machine`): no I/O, no clock, no randomness of its own. Each input takes `now`, in seconds on one
monotonic clock.

Source: thesis §3; the two ways out, `send` and `send_after_persist`, as in etcd-io/raft `msgs`, `msgsAfterAppend`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from consensus.raft.config import RaftConfig
from consensus.raft.core import Core
from consensus.raft.log_view import LogView
from consensus.raft.messages import (
    Appended,
    Envelope,
    HardState,
    LogEntry,
    ReplicaMark,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReply,
)
from consensus.raft.outputs import (
    ConfigurationChanged,
    NotLeader,
    Output,
    PersistTicket,
    RaftStatus,
    Refusal,
)
from consensus.raft.roles import Roles
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
        self._roles = Roles(self._core, may_vote=may_vote)
        self._reads = self._roles.reads
        self._receiver = self._roles.receiver
        self._writes = self._roles.writes
        self._compact_to = 0

    # --- time -------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        return ASLEEP if self._writes.failed else self._roles.next_deadline()

    def tick(self, now: float) -> None:
        self._at(now)
        if not self._writes.failed:
            self._roles.tick()

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
        if self._roles.leadership is None:
            return self._not_leader()
        return self._roles.leadership.propose(payloads)

    def change_membership(
        self, now: float, voters: frozenset[NodeId], learners: frozenset[NodeId]
    ) -> int | Refusal:
        """Make these the group's voters and learners. A new voter has to be a learner that caught up.

        Returns:
            The index of the (joint) configuration's entry; the second entry follows by itself. Or why not.
        """
        self._at(now)
        if self._roles.leadership is None:
            return self._not_leader()
        index = self._roles.leadership.change_membership(voters, learners)
        self._roles.end_if_over()
        return index

    def transfer(self, now: float, target: NodeId) -> Refusal | None:
        """Hand leadership to this voter; `TransferEnded` says how it went."""
        self._at(now)
        if self._roles.leadership is None:
            return self._not_leader()
        return self._roles.leadership.start_transfer(target)

    def read_index(self, now: float, token: int) -> None:
        """Ask for a linearizable read; `ReadReady` or `ReadRefused` with this token answers it."""
        self._at(now)
        self._reads.ask(token)

    def step_down(self, now: float, why: str) -> None:
        """Stop leading (a slow loop, a full disk), in favour of the voter that will win."""
        self._at(now)
        if self._roles.leadership is not None:
            self._roles.end_leadership(why)

    def _not_leader(self) -> NotLeader:
        return NotLeader(self._core.leader, "this replica does not lead")

    # --- what the driver tells --------------------------------------------------------------------------------

    def persisted(self, now: float, ticket: PersistTicket) -> None:
        """This write is durable. A completion of an older one says nothing about the present log (pitfall 26)."""
        self._at(now)
        if self._writes.finish(ticket):
            self._roles.written()

    def applied_to(self, now: float, index: int) -> None:
        """The state machine has applied the entries up to this index."""
        self._at(now)
        self._core.log.applied_to(index)
        self._reads.applied_to(self._core.log.applied)
        if self._roles.leadership is not None:
            self._roles.leadership.leave_joint()
            self._roles.end_if_over()

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
        if self._roles.leadership is None:
            return False
        return self._roles.leadership.give_chunk(to, SnapshotChunk(meta, offset, payload, done))

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
        self._writes.fail()

    def peer_link_closed(self, now: float, node_id: NodeId) -> None:
        """The link to this node was closed by the kernel of its machine (FIN or RST): the process is gone (C1).

        That matters of a leader, and of a candidate that has our vote and has not been heard leading yet.
        """
        self._at(now)
        if self._roles.leadership is not None:
            self._roles.leadership.replication.link_closed(node_id)
        elif node_id == (self._core.leader or self._core.vote):
            self._roles.election.leader_link_closed()

    def set_known_marks(self, known: Mapping[NodeId, ReplicaMark]) -> None:
        """The stores and starts that the ledger knows, as of the applied index; replies of others do not count (T3)."""
        self._roles.fences.set_known(known)
        if self._roles.leadership is not None:
            for peer in self._roles.leadership.replication.peers.values():
                mark = known.get(peer.node_id)
                if peer.store_id is not None and mark is not None and peer.store_id != mark.store_id:
                    peer.forget()

    def allow_votes(self, now: float) -> None:
        """The ledger has re-admitted this replica's store."""
        self._at(now)
        self._roles.election.may_vote = True

    def set_round_trip(self, round_trip_s: float) -> None:
        """The measured round trip to the farthest voter: slow links ask for wider timeouts (C1)."""
        wanted = ROUND_TRIPS_PER_ELECTION * round_trip_s / self._core.config.election_min_s
        self._core.pace = max(1.0, wanted)

    # --- messages ---------------------------------------------------------------------------------------------

    def receive(self, now: float, envelope: Envelope) -> None:
        """Take a message; it may be late, doubled, reordered, or from someone who should not speak."""
        self._at(now)
        if not self._writes.failed:
            self._roles.receive(envelope)

    # --- the way out ------------------------------------------------------------------------------------------

    def take_output(self) -> Output:
        core = self._core
        if self._roles.leadership is not None:
            self._roles.leadership.flush()
        persist, after = self._writes.take()
        waits = self._receiver.installing is not None or self._writes.failed
        output = Output(
            persist=persist,
            send=tuple(core.to_send),
            send_after_persist=after,
            committed=() if waits else core.log.take_committed(),
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

    # --- looking ----------------------------------------------------------------------------------------------

    def status(self) -> RaftStatus:
        core = self._core
        leading = self._roles.leadership
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
