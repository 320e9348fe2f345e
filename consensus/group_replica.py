"""A group's node while it is in the Raft configuration: the Raft replica, and what its driver owes it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from consensus.beginnings import opening_term
from consensus.group_core import GroupCore
from consensus.group_effects import Settled
from consensus.log_records import GroupWrite
from consensus.raft.messages import FROM_LEADER, Configuration, Envelope, ReplicaMark, SnapshotMeta
from consensus.raft.outputs import (
    BecameFollower,
    BecameLeader,
    Busy,
    Event,
    LeaderReady,
    Output,
    PersistTicket,
    RaftStatus,
    ReadRefused,
    Refusal,
    SteppedDown,
)
from consensus.raft.raft import Raft
from mesh.names import NodeId


class Replica:
    """Lives from joining the configuration to leaving it; all it knows beside the disk dies with it, as in a restart.

    Args:
        core: What it shares with the other mode.
        rng: For election timeouts.
    """

    def __init__(self, core: GroupCore, rng: random.Random) -> None:
        self._core = core
        self.started_at = core.now
        self._pending: dict[int, tuple[int, int]] = {}  # index → term, token
        self._reading: dict[int, None] = {}  # tokens that Raft owes an answer; bounded by its `reads_max`
        self._received = bytearray()
        self._known: dict[NodeId, ReplicaMark] | None = None
        self._known_for: Configuration | None = None
        log = core.log.mirror
        core.leader = None
        self.raft = Raft(
            core.config.raft,
            core.mark,
            group=core.group,
            epoch=core.log.epoch,
            hard_state=core.log.hard_state,
            snapshot=log.snapshot,
            entries=log.entries(log.base + 1, log.last),
            applied=core.machine.applied,
            rng=rng,
            now=core.now,
            may_vote=self._may_vote(),
        )
        self._tell_facts()

    def status(self) -> RaftStatus:
        return self.raft.status()

    def end(self) -> None:
        """This node is an observer from now on: whoever waits for Raft's word has to ask elsewhere."""
        self._settle_all()
        self._core.reads += [ReadRefused(token, "this node has become an observer") for token in self._reading]
        self._reading.clear()
        self._core.end_leading()
        self._core.leader = None

    # --- inputs -----------------------------------------------------------------------------------------------

    def propose(self, token: int, payload: bytes) -> Refusal | None:
        core = self._core
        if core.read_only:
            return Busy(core.me, core.read_only)
        if len(self._pending) >= core.config.pending_max:
            return Busy(core.me, f"{core.config.pending_max} proposals are waiting here")
        taken = self.raft.propose(core.now, [payload])
        if isinstance(taken, Refusal):
            return taken
        index, term = taken
        self._pending[index] = (term, token)
        return None

    def read(self, token: int) -> None:
        self._reading[token] = None
        self.raft.read_index(self._core.now, token)

    def receive(self, envelope: Envelope) -> None:
        core = self._core
        self.raft.receive(core.now, envelope)
        if isinstance(envelope.body, FROM_LEADER) and self.raft.status().leader == envelope.sender.node_id:
            core.heard_at = core.now
            core.term_seen = max(core.term_seen, envelope.term)

    def persisted(self, ticket: PersistTicket) -> None:
        self.raft.persisted(self._core.now, ticket)

    def snapshot_saved(self, meta: SnapshotMeta, *, is_install: bool) -> None:
        """Durable; if it was to be installed, the state machine has been restored from it."""
        if is_install:
            self.raft.snapshot_installed(self._core.now, meta)
            self._tell_facts()
        else:
            self.raft.snapshot_taken(self._core.now, meta)

    def install_failed(self, meta: SnapshotMeta) -> None:
        self.raft.snapshot_failed(self._core.now, meta)

    # --- outputs ----------------------------------------------------------------------------------------------

    def drain(self) -> tuple[Event, ...]:
        """Carry over what the Raft replica wants done, until nothing that was just done has made more ready."""
        events: list[Event] = []
        while True:
            output = self.raft.take_output()
            self._absorb(output)
            events += output.events
            if not (output.committed or output.snapshot_needed or output.install):
                return tuple(events)

    def _absorb(self, output: Output) -> None:
        """First what is committed, so that the write notes it."""
        core = self._core
        core.send += output.send
        core.reads += output.reads
        for read in output.reads:
            self._reading.pop(read.token, None)
        self._note_events(output.events)
        if output.committed:
            for entry, result in core.apply(output.committed):
                self._settle(entry.index, entry.term, result)
            self.raft.applied_to(core.now, core.machine.applied)
            self._tell_facts()
        self._queue_write(output)
        self._answer_needs(output)
        for chunk in output.chunks:
            if chunk.offset == 0:
                self._received.clear()
            self._received += chunk.payload
        if output.install is not None:
            if not core.install(output.install.meta, bytes(self._received)):
                self.install_failed(output.install.meta)
            self._received.clear()
        core.compact_to = max(core.compact_to, output.compact_to)
        if any(isinstance(event, SteppedDown | BecameFollower) for event in output.events):
            self._settle_all()

    def _queue_write(self, output: Output) -> None:
        core = self._core
        persist = output.persist
        if persist is None:
            core.send += output.send_after_persist
            return
        write = GroupWrite(
            core.group,
            hard_state=persist.hard_state,
            truncate_from=persist.truncate_from,
            entries=persist.entries,
            reset_to=persist.reset_to.index if persist.reset_to is not None else 0,
        )
        core.log.queue(write, ticket=persist.ticket, then_send=output.send_after_persist)

    def _answer_needs(self, output: Output) -> None:
        core = self._core
        for need in output.snapshot_needed:
            piece = core.outgoing.piece(need.index, need.offset, at_least=core.log.mirror.base, now=core.now)
            self.raft.snapshot_chunk(core.now, need.to, piece.meta, piece.offset, piece.payload, done=piece.done)

    def _note_events(self, events: Sequence[Event]) -> None:
        core = self._core
        for event in events:
            match event:
                case BecameLeader():
                    core.leader = core.me
                case LeaderReady():
                    core.is_leader = True
                case SteppedDown():
                    core.leader = None
                    core.end_leading()
                case BecameFollower():
                    core.leader = event.leader
                    core.end_leading()
                case _:
                    pass

    def _settle(self, index: int, term: int, result: bytes) -> None:
        expected, token = self._pending.pop(index, (0, 0))
        if expected:
            # Another term's entry there means that leadership ended, and with it everything was settled.
            assert expected == term, f"entry {index} of term {expected} was replaced while its leader led"
            self._core.settled.append(Settled(token, index, result))

    def _settle_all(self) -> None:
        """Leadership is over: whoever waits has to ask the next leader what became of it."""
        self._core.settled += [Settled(token, index, None) for index, (_, token) in self._pending.items()]
        self._pending.clear()

    # --- whose memory is known (rule T3) ----------------------------------------------------------------------

    def _tell_facts(self) -> None:
        """Tell the Raft replica what the agreed state says of its peers' memories, if that is news."""
        core = self._core
        members = self.raft.status().configuration
        facts = {node_id: core.facts(node_id) for node_id in members.everyone()}
        known = {node_id: fact.mark for node_id, fact in facts.items() if fact is not None}
        if known != self._known or members != self._known_for:
            self._known, self._known_for = known, members
            self.raft.set_known_marks(known)
        if self._may_vote():
            self.raft.allow_votes(core.now)

    def _may_vote(self) -> bool:
        """Whether this replica remembers what it promised. A founder is known to nobody yet.

        Nor does whoever opened an epoch owe anybody an older promise: else a survivor that once had lost its log could
        never go on without the others (rule T5).
        """
        core = self._core
        mine = core.facts(core.me)
        if mine is None:
            # A copied log that ends before the mesh was made has its founder for the only voter, and no term.
            return core.log.mirror.acting.includes(core.me) and core.log.hard_state.term > 0
        if self._has_opened_epoch():
            return core.log.mirror.acting.includes(core.me)
        return mine.may_vote and mine.store_id == core.mark.store_id

    def _has_opened_epoch(self) -> bool:
        """This very log was continued with this node as the only voter; one that was copied has no such term."""
        log = self._core.log
        return (
            log.epoch > 1
            and log.hard_state.term >= opening_term(log.epoch)
            and log.mirror.acting.all_voters() == (self._core.me,)
        )
