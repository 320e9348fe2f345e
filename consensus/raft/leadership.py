"""A leader's life in one term: its no-op, its rounds of heartbeats, its proposals, and why it ends.

The object lives from election to step-down; whatever a leader knows dies with it. When it finds that it must end, it
says why in `over`, and `raft.Raft` carries that out.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.raft.core import Core
from consensus.raft.membership import CATCH_UP_ENTRIES_MAX, left_configuration, next_configuration
from consensus.raft.messages import (
    ENTRY_OVERHEAD_BYTES,
    RAFT,
    Appended,
    AppendRefused,
    Body,
    Configuration,
    EntryKind,
    HeartbeatReply,
    ReplicaMark,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
)
from consensus.raft.outputs import Busy, LeaderReady, NotAllowed, PeerStatus, Refusal
from consensus.raft.reads import Reads
from consensus.raft.replication import Replication
from consensus.raft.snapshots import SnapshotSender
from consensus.raft.transfer import Transfer
from mesh.names import NodeId


class Leadership:
    """From the no-op on: nothing is read, changed or told before it is committed (thesis §6.4, pitfall 4)."""

    def __init__(self, core: Core, reads: Reads) -> None:
        self._core = core
        self._reads = reads
        self.replication = Replication(core)
        self.transfer = Transfer(core)
        self._snapshots = SnapshotSender(core)
        self.ready = False
        self.over: str | None = None
        self.heartbeat_at = core.now
        (noop,) = core.append_own(EntryKind.NOOP, [b""])
        self._noop_index = noop.index
        self._count(noop.size_bytes())

    def _count(self, size_bytes: int) -> None:
        self.replication.uncommitted_bytes += size_bytes

    # --- time -------------------------------------------------------------------------------------------------

    def next_deadline(self, *, writing: bool) -> float:
        """A leader without followers and without a write under way has nothing to wait for."""
        if not self.replication.peers and not writing:
            return self.transfer.deadline
        return min(self.heartbeat_at, self.transfer.deadline)

    def tick(self, *, is_stalled: bool) -> None:
        """Heartbeats; and the two proofs of being able to lead: a quorum that answers, and a disk that writes."""
        core = self._core
        self.transfer.tick()
        if core.now < self.heartbeat_at:
            return
        self.heartbeat_at = core.now + core.heartbeat_s
        if not self.replication.has_live_quorum():
            self.over = "no quorum was heard for an election timeout"
        elif is_stalled:
            self.over = "the disk has not finished a write for two election timeouts"
        else:
            self.replication.broadcast_heartbeat(self._reads.round)

    # --- requests ---------------------------------------------------------------------------------------------

    def propose(self, payloads: Sequence[bytes]) -> tuple[int, int] | Refusal:
        core = self._core
        if self.transfer.target is not None:
            return Busy(self.transfer.target, "leadership is being handed over")
        if not payloads:
            return NotAllowed(core.me, "nothing was proposed")
        if max(map(len, payloads)) > core.config.entry_bytes_max:
            return NotAllowed(core.me, f"an entry is larger than {core.config.entry_bytes_max} bytes")
        size = sum(map(len, payloads)) + ENTRY_OVERHEAD_BYTES * len(payloads)
        waiting = self.replication.uncommitted_bytes
        if waiting and waiting + size > core.config.uncommitted_bytes_max:
            return Busy(core.me, f"more than {core.config.uncommitted_bytes_max} bytes are not committed yet")
        entries = core.append_own(EntryKind.NORMAL, payloads)
        self._count(size)
        return entries[0].index, core.term

    def change_membership(self, voters: frozenset[NodeId], learners: frozenset[NodeId]) -> int | Refusal:
        """One change at a time, and none before this term has committed something (pitfalls 4 and 15)."""
        core = self._core
        if not self.ready:
            return Busy(core.me, "this leader's term has nothing committed yet")
        if core.members.is_pending or core.configuration.is_joint:
            return Busy(core.me, "a change of membership is under way")
        if self.transfer.target is not None:
            return Busy(self.transfer.target, "leadership is being handed over")
        wanted = next_configuration(
            core.configuration,
            voters,
            learners,
            is_caught_up=lambda node_id: self.replication.is_caught_up(node_id, CATCH_UP_ENTRIES_MAX),
            is_alive=self.replication.answers,
        )
        if isinstance(wanted, str):
            return NotAllowed(core.me, wanted)
        return self._append_configuration(wanted)

    def _append_configuration(self, configuration: Configuration) -> int:
        (entry,) = self._core.append_own(EntryKind.CONFIG, [RAFT.encode(configuration)])
        self._count(entry.size_bytes())
        self.replication.sync_peers()
        self._reads.check_round()
        # The new quorum may be one that has all already: a group that shrinks to its leader.
        self.check_commit()
        return entry.index

    def leave_joint(self) -> None:
        """Once the joint configuration is applied, by whichever leader sees that (thesis §4.3, pitfall 13)."""
        core = self._core
        if self.ready and core.configuration.is_joint and core.members.current_index <= core.log.applied:
            self._append_configuration(left_configuration(core.configuration))

    def start_transfer(self, target: NodeId) -> Refusal | None:
        core = self._core
        if target == core.me or target not in core.configuration.voters:
            return NotAllowed(core.me, f"{target} is no other voter")
        if not self.ready or not self.replication.is_alive(target):
            return Busy(core.me, f"{target} cannot take over now")
        if self.transfer.target is not None:
            return Busy(self.transfer.target, "leadership is being handed over")
        self.transfer.start(target)
        self.transfer.check(self.replication.peers.get(target))
        return None

    def hand_over(self) -> None:
        """On the way out: the voter that will win is told to begin, if there is one."""
        successor = self.replication.best_successor()
        if successor is not None:
            self._core.send(successor, TimeoutNow())

    # --- answers ----------------------------------------------------------------------------------------------

    def receive(self, sender: ReplicaMark, body: Body) -> None:
        """A follower's reply in this term."""
        peer = self.replication.hear(sender)
        if peer is None:
            return
        match body:
            case Appended():
                if self.replication.receive_appended(peer, body):
                    self.check_progress()
                if peer.node_id == self.transfer.target:
                    self.transfer.check(peer)
            case AppendRefused():
                self.replication.receive_refused(peer, body)
            case HeartbeatReply():
                self.replication.receive_heartbeat_reply(peer)
                self._reads.acknowledge(sender.node_id, body.round)
            case SnapshotReply():
                self._snapshots.receive_reply(peer, body)
            case _:
                pass  # a vote or pre-vote that came after the decision

    def give_chunk(self, to: NodeId, chunk: SnapshotChunk) -> bool:
        peer = self.replication.peers.get(to)
        return peer is not None and self._snapshots.give_chunk(peer, chunk)

    def check_commit(self) -> None:
        """The own disk, a follower or the configuration changed what a quorum has."""
        if self.replication.advance_commit():
            self.check_progress()

    def check_progress(self) -> None:
        """The commit index rose."""
        core = self._core
        if not self.ready and core.log.commit >= self._noop_index:
            self.ready = True
            core.emit(LeaderReady(core.term, self._noop_index))
            self.leave_joint()
        if not core.members.is_pending and not core.configuration.is_voter(core.me):
            self.over = "the configuration without this replica is committed"

    # --- the way out ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Say what is due: a read round, what followers lack, which snapshot bytes are needed."""
        if self._reads.start_round(ready=self.ready):
            self.replication.broadcast_heartbeat(self._reads.round)
        self.replication.flush(self._reads.round)
        peers = self.replication.peers.values()
        self._snapshots.ask(peers, is_alive_after=self._core.now - self._core.election_max_s)

    def statuses(self) -> tuple[PeerStatus, ...]:
        core = self._core
        return tuple(
            PeerStatus(
                peer.node_id,
                peer.state.value,
                peer.match,
                peer.next_index,
                len(peer.window),
                peer.window.size_bytes,
                core.now - peer.heard_at,
                not core.configuration.is_voter(peer.node_id),
            )
            for peer in self.replication.peers.values()
        )
