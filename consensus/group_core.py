"""What both modes of a group share: its log, its state machine, what it knows of the leader, its way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from consensus.group_effects import Fenced, GroupConfig, GroupOutput, PeerFacts, Settled, StateMachine
from consensus.group_log import GroupLog
from consensus.group_serving import OutgoingSnapshot
from consensus.log_records import Recovered
from consensus.pull import STALE_S, Pull
from consensus.raft.messages import EntryKind, LogEntry, ReplicaMark, SnapshotMeta
from consensus.raft.outputs import Event, Outgoing, ReadReady, ReadRefused
from mesh.errors import DamagedError
from mesh.names import MeshId, NodeId

HAND_OVER_S = 2.0
HAND_OVER_S_MAX = 60.0
"""Between two tries of a leader that is read-only to be rid of it: an election takes a second."""


class GroupCore:
    """One group's shared state; made from what the disk has, see `group.Group`."""

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
        now: float,
    ) -> None:
        self.config = config
        self.mark = me
        self.me = me.node_id
        self.group = group
        self.mesh_id = mesh_id
        self.now = now
        self.new_machine = new_machine
        self.machine = new_machine()
        self.facts = facts(self.machine)
        meta = None if snapshot is None else snapshot[0]
        self.log = GroupLog(group, recovered, meta, commit_note_s=config.commit_note_s)
        self.outgoing = OutgoingSnapshot(self.take_snapshot)
        self.leader: NodeId | None = None
        self.is_leader = False
        self.term_seen = recovered.hard_state.term
        self.heard_at = -inf  # when this copy was last known to be a live leader's
        self._told_leader: NodeId | None = None
        self._told_at = -inf  # when a leader was last heard by whoever told this replica of it
        self.read_only = ""
        self._hand_over_at = 0.0
        self._hand_over_s = HAND_OVER_S
        self.send: list[Outgoing] = []
        self.settled: list[Settled] = []
        self.reads: list[ReadReady | ReadRefused] = []
        self.events: list[Event | Fenced] = []
        self.compact_to = 0
        self._was_known = False
        if snapshot is not None:
            self.machine.restore(snapshot[1])
        mirror = self.log.mirror
        self.apply(mirror.entries(mirror.snapshot.index + 1, min(recovered.commit, mirror.last)))

    # --- applying ---------------------------------------------------------------------------------------------

    def apply(self, entries: Sequence[LogEntry]) -> list[tuple[LogEntry, bytes]]:
        """Apply committed, durable entries in order. Returns the NORMAL ones with their results."""
        results: list[tuple[LogEntry, bytes]] = []
        for entry in entries:
            if entry.index <= self.machine.applied:
                continue  # a snapshot holds it (pitfall 23)
            if entry.kind is EntryKind.NORMAL:
                results.append((entry, self.machine.apply(entry.index, entry.term, entry.payload)))
            else:
                self.machine.advance(entry.index)
        if entries:
            self.note_applied()
        return results

    def note_applied(self) -> None:
        """The state is another: note how far, and whether it still knows this node's memory (rule T3)."""
        self.log.note_commit(self.machine.applied, self.now)
        mine = self.facts(self.me)
        if mine is not None and mine.store_id == self.mark.store_id:
            self._was_known = True
        elif mine is not None and self._was_known:
            self.events.append(Fenced("it has registered a log of its own", is_replaced=True))

    def is_known(self) -> bool:
        """Whether the agreed state, as far as it is applied here, names this node's present memory."""
        mine = self.facts(self.me)
        return mine is not None and mine.store_id == self.mark.store_id

    def is_stranger(self) -> bool:
        """Whether a leader does not hear this replica: the state is empty, or names another memory of this node.

        Such a one can be in the configuration and still has to copy, for nobody will send it anything (fault D5).
        """
        mine = self.facts(self.me)
        return self.machine.applied == 0 if mine is None else mine.store_id != self.mark.store_id

    def position(self) -> tuple[int, int]:
        """Index and term of the last applied entry."""
        index = self.machine.applied
        term = self.log.mirror.term_at(index)
        assert term is not None, f"entry {index} was applied and its term is not known"
        return index, term

    # --- snapshots --------------------------------------------------------------------------------------------

    def take_snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """Of the state as it is now."""
        index, term = self.position()
        return SnapshotMeta(index, term, self.log.mirror.configuration_at(index)), self.machine.snapshot()

    def install(self, meta: SnapshotMeta, payload: bytes) -> bool:
        """Have a snapshot from elsewhere saved, to be installed then. False: it cannot be read."""
        try:
            self.new_machine().restore(payload)
        except DamagedError:
            return False
        self.log.save(meta, payload, is_install=True)
        return True

    # --- the leader -------------------------------------------------------------------------------------------

    def age(self, now: float) -> float:
        """Seconds since this copy was known to be a live leader's."""
        return 0.0 if self.is_leader else now - max(self.heard_at, self._told_at)

    def hear_tell(self, leader: NodeId | None, heard_s_ago: float) -> None:
        """A peer that this replica asked, because it hears no leader itself, says who leads (fault N3).

        Kept apart from what Raft knows: with this nobody is elected and nobody shielded. But a node that the leader
        alone cannot reach is no minority: it reads, writes and runs its apps by way of the others.
        """
        if leader != self.me:
            self._told_leader = leader
            self._told_at = max(self._told_at, self.now - heard_s_ago)

    @property
    def told_leader(self) -> NodeId | None:
        """Who leads by hearsay that is not too old."""
        return self._told_leader if self.now - self._told_at <= STALE_S else None

    def known_leader(self, *, observing: bool) -> NodeId | None:
        """Who leads, by what this node hears itself, else by what it is told."""
        if observing:
            return self.leader if self.age(self.now) <= STALE_S else None
        return self.leader or self.told_leader

    def hands_over(self, why: str) -> bool:
        """Whether a leader that is read-only gives up now, in favour of a voter that is not.

        Whoever is told to take over may lose the election to this node, whose log is longer by what nobody
        acknowledged: so once is not enough. All voters may be full: so it is tried less and less often.
        """
        if not why:
            self._hand_over_at, self._hand_over_s = self.now, HAND_OVER_S
            return False
        again = self.is_leader and self.now >= self._hand_over_at
        if len(self.log.mirror.acting.all_voters()) == 1 or (self.read_only and not again):
            return False
        self._hand_over_at = self.now + self._hand_over_s
        self._hand_over_s = min(2 * self._hand_over_s, HAND_OVER_S_MAX)
        return True

    def end_leading(self) -> None:
        if self.is_leader:
            self.heard_at = self.now
        self.is_leader = False

    # --- the way out ------------------------------------------------------------------------------------------

    def drain(self, *, pull: Pull | None) -> GroupOutput:
        """What was gathered since the last call, as one value."""
        if self.compact_to:
            self.log.mirror.note_compacted(self.compact_to)
        output = GroupOutput(
            send=tuple(self.send),
            write=self.log.take_write(),
            save=self.log.take_save(),
            compact_to=self.compact_to,
            pull=pull,
            settled=tuple(self.settled),
            reads=tuple(self.reads),
            events=tuple(self.events),
            applied_to=self.machine.applied,
        )
        self.compact_to = 0
        for drained in (self.send, self.settled, self.reads, self.events):
            drained.clear()
        return output
