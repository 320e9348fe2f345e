"""The consensus half of a simulated node: the real Group, log store and snapshot store, on the simulated disk.

What `consensus/host.py` does with trio and threads is done here with the agenda, duty for duty (`GroupOutput`): send,
write, then `written`; save, then `snapshot_saved`; compact; pull. A write takes the disk's time, and while it is under
way the process may die, at its beginning or at any effect within.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import lru_cache

from consensus.beginnings import LEDGER_GROUP, founding_write
from consensus.boot import Doubt, mark_of, next_start, note_registered
from consensus.disk import NoSpace
from consensus.group import Group
from consensus.group_effects import Fenced, GroupConfig, SaveSnapshot
from consensus.ledger_state import LedgerState
from consensus.log_records import GroupWrite
from consensus.log_store import LogOptions, LogStore
from consensus.pull import Piece, PieceRequest, Pull, PullAnswer, PullRequest
from consensus.raft.config import RaftConfig
from consensus.raft.messages import RAFT, EntryKind, Envelope
from consensus.raft.outputs import (
    BecameFollower,
    BecameLeader,
    ConfigurationChanged,
    LeaderReady,
    ReadReady,
    SteppedDown,
)
from consensus.snapshot_store import SnapshotStore
from mesh.errors import FencedError, FreecloudError
from mesh.names import MeshId, NodeId
from tests.sim.checkers.recovered import HeldLog
from tests.sim.host import Host
from tests.sim.identities import node_id
from tests.sim.observed import ObservedState
from tests.sim.options import Options
from tests.sim.oracle import Oracle
from tests.sim.rpc import Rpc
from tests.sim.world import World

MESH = MeshId("simulatedmeshsimulatedmesh")
FOUNDER = "n1"
KEY = bytes(range(32))
RETRY_S = 0.5
"""How soon a write that found the disk full is tried again."""

Settle = Callable[[int, bytes | None], None]
"""(index, result or None) at the end of a proposal."""


def group_config(options: Options) -> GroupConfig:
    """The seed's constants."""
    constants = options.constants
    return GroupConfig(
        raft=RaftConfig(
            heartbeat_s=constants.heartbeat_s,
            election_min_s=constants.election_s_min,
            election_max_s=constants.election_s_max,
            batch_entries_max=constants.batch_entries_max,
            batch_bytes_max=constants.batch_bytes_max,
            inflight_messages_max=constants.inflight_max,
            log_keep_entries=constants.log_kept,
        ),
        snapshot_entries=constants.snapshot_every,
    )


@lru_cache(maxsize=4096)
def through_codec(envelope: Envelope) -> Envelope:
    """The message as the other side decodes it."""
    return RAFT.decode(RAFT.encode(envelope), Envelope)


class Agreeing:
    """One life's part in the ledger's group.

    Args:
        changed: Called when the state was applied further or another one leads.
        founder: Whether this node, on an empty disk, founds the mesh.
    """

    def __init__(
        self,
        world: World,
        host: Host,
        rpc: Rpc,
        oracle: Oracle,
        names: Mapping[NodeId, str],
        changed: Callable[[], None],
        *,
        founder: bool,
    ) -> None:
        self._world, self._host, self._rpc, self._oracle, self._names = world, host, rpc, oracle, names
        self._changed = changed
        self.life = f"{host.name}.{host.lives}"
        self._rng = random.Random(f"{world.options.seed}:life:{self.life}")
        self._encode_share = world.options.encode
        self.store = self._open_store(founder)
        self._place = 2 if host.is_copy else 1  # no copy of a home lies where it was written
        self.start = next_start(host.new_disk(), self.store.store_id, self._rng.randbytes, place=self._place)
        self.boot = self.start.boot
        doubt = Doubt(node_id(host.name), doubted=self.start.copied)
        self.snapshots = SnapshotStore(host.new_disk("snapshots/"), KEY, random_bytes=self._rng.randbytes)
        recovered = self.store.recovered(LEDGER_GROUP)
        self._epoch_found = recovered.epoch
        self.group = Group(
            group_config(world.options),
            mark_of(node_id(host.name), self.boot),
            group=LEDGER_GROUP,
            mesh_id=MESH,
            recovered=recovered,
            snapshot=self.snapshots.newest(LEDGER_GROUP, covering=recovered.base),
            new_machine=lambda: ObservedState(oracle, self.life, self.epoch),
            facts=doubt.peer_facts,
            rng=self._rng,
            now=host.clock.monotonic(),
        )
        self._tokens = 0
        self._proposals: dict[int, Settle] = {}
        self._reads: dict[int, Callable[[bool], None]] = {}
        self._pulls_waiting: list[tuple[PullRequest, Callable[[object], None]]] = []
        self._seen: tuple[int, NodeId | None, bool] = (self.state.applied, None, False)
        rpc.register("ledger.pull", self._serve_pull)

    def _open_store(self, founder: bool) -> LogStore:
        constants = self._world.options.constants
        options = LogOptions(segment_bytes=constants.segment_bytes, ballast_bytes=2 * constants.segment_bytes)
        disk = self._host.new_disk("log/")
        store = LogStore.open(disk, KEY, random_bytes=self._rng.randbytes, options=options)
        if founder and store.created:
            store.write([founding_write(node_id(self._host.name))])
            store.close()
            store = LogStore.open(disk, KEY, random_bytes=self._rng.randbytes, options=options)
        return store

    @property
    def state(self) -> LedgerState:
        """The ledger as far as it is applied here."""
        assert isinstance(self.group.machine, LedgerState)
        return self.group.machine

    def epoch(self) -> int:
        """The epoch of this node's log; a log that was never written to is of the first."""
        group: Group | None = getattr(self, "group", None)  # it applies what the disk has while it is being made
        return max(1, self._epoch_found if group is None else group.status().epoch)

    def now(self) -> float:
        return self._host.clock.monotonic()

    # --- inputs -----------------------------------------------------------------------------------------------

    def receive(self, envelope: Envelope) -> None:
        """A Raft message arrived over a link."""
        self.group.receive(self.now(), envelope)
        self.perform()

    def link_closed(self, peer: str) -> None:
        self.group.peer_link_closed(self.now(), node_id(peer))
        self.perform()

    def wake(self) -> None:
        self.group.tick(self.now())
        self.perform()

    def set_sources(self) -> None:
        """Tell the group whom the committed log may be asked of."""
        self.group.set_sources(self.now(), self.sources())

    def sources(self) -> list[NodeId]:
        """Every member with a machine; those alone that a link could be up with, if there are any, as the ledger asks.

        Before any is known: the founder, whom a joiner knows by its token, or, if the disk was lost, everybody, as the
        peers dial a node whose address they know.
        """
        me = node_id(self._host.name)
        members = set(self.state.active_members())
        if not members:
            members = {node_id(FOUNDER)} if self._host.lives == 1 else set(self._names)
        others = [known for known in self._names if known in members and known != me]
        return [known for known in others if self._is_linked(self._names[known])] or others

    def _is_linked(self, peer: str) -> bool:
        """What the kernel would say: the peer's process runs, and the paths are open."""
        network, name = self._world.network, self._host.name
        return (
            self._world.hosts[peer].process is not None and network.is_open(name, peer) and network.is_open(peer, name)
        )

    def propose(self, payload: bytes, settle: Settle) -> object | None:
        """Append as the leader; the refusal if this node does not lead."""
        self._tokens += 1
        token = self._tokens
        refusal = self.group.propose(self.now(), token, payload)
        if refusal is None:
            self._proposals[token] = settle
            self.perform()
        return refusal

    def read(self, done: Callable[[bool], None]) -> None:
        """A linearizable read; `done(True)` once the state is new enough."""
        self._tokens += 1
        self._reads[self._tokens] = done
        self.group.read(self.now(), self._tokens)
        self.perform()

    def note_registered(self) -> None:
        """The ledger names this start; a full disk only means that the next one is told anew."""
        try:
            note_registered(self._host.new_disk(), self.boot, place=self._place)
        except NoSpace:
            self._world.note(self._host.name, "no space", "for the registered start")

    # --- recovery (rule T5) -----------------------------------------------------------------------------------

    def rank(self) -> tuple[int, int, int, str]:
        """How far its log reaches, as `consensus.recovery` compares survivors."""
        term, index = self.group.last_entry()
        return (self.group.status().epoch, term, index, node_id(self._host.name))

    def held(self) -> HeldLog:
        """What its disk holds."""
        mirror = self.group._core.log.mirror
        entries = mirror.entries(mirror.base + 1, mirror.last)
        kinds = {entry.index: "normal" if entry.kind is EntryKind.NORMAL else "raft's own" for entry in entries}
        return HeldLog(mirror.base, {entry.index: (entry.term, kinds[entry.index]) for entry in entries})

    def open_epoch(self, epoch: int, held: Mapping[str, HeldLog]) -> bool:
        """Go on alone, by an operator's decision; False if the group will not now."""
        if self.group.recover(self.now(), epoch) is not None:
            return False
        kept = self._oracle.recovered(epoch, self._host.name, held)
        self._world.note(self._host.name, "recover", f"epoch {epoch}", index=kept)
        self.perform()
        return True

    def close_epoch(self, epoch: int) -> None:
        """It was lost with the only disk that held it."""
        self._oracle.branches.pop(epoch, None)
        self._oracle.kept.pop(epoch - 1, None)

    # --- duties -----------------------------------------------------------------------------------------------

    def perform(self) -> None:
        """Carry out one output of the group."""
        output = self.group.take_output()
        for outgoing in output.send:
            if outgoing.to in self._names:
                envelope = outgoing.envelope
                if self._rng.random() < self._encode_share:
                    envelope = through_codec(envelope)
                self._world.network.send(self._host.name, self._names[outgoing.to], envelope)
        for event in output.events:
            self._note(event)
        if output.write is not None:
            self._write_later(output.write)
        if output.save is not None:
            self._save_later(output.save)
        if output.compact_to:
            self._compact(output.compact_to)
        if output.pull is not None:
            self._pull(output.pull)
        self._observe(output.applied_to)
        for settled in output.settled:
            settle = self._proposals.pop(settled.token, None)
            if settle is not None:
                settle(settled.index, settled.result)
        for read in output.reads:
            done = self._reads.pop(read.token, None)
            if done is not None:
                done(isinstance(read, ReadReady))

    def _observe(self, applied: int) -> None:
        seen = (applied, self.group.leader, self.group.is_leader)
        if seen == self._seen:
            return
        if applied != self._seen[0]:
            status = self.group.status()
            self._oracle.branch(status.epoch).replicas.commit(self.life, status.commit)
            self._world.note(self._host.name, "apply", term=status.term, index=applied)
        self._seen = seen
        self._answer_pulls()
        self._changed()

    def _note(self, event: object) -> None:
        name = self._host.name
        match event:
            case BecameLeader(term=term):
                status = self.group.status()
                self._oracle.leaders.leads(status.epoch, term, self.life)
                self._oracle.branch(status.epoch).log.leader_has(self.life, status.last_index)
                self._world.note(name, "leader", term=term, index=status.last_index)
            case LeaderReady(term=term, index=index):
                self._world.note(name, "ready", term=term, index=index)
            case BecameFollower(term=term, leader=leader):
                whom = "" if leader is None else self._names[leader]
                self._world.note(name, "follower", f"of {whom}", term=term)
            case SteppedDown(term=term, why=why):
                self._world.note(name, "steps down", why, term=term)
            case ConfigurationChanged(index=index, configuration=configuration):
                voters = " ".join(sorted(self._names[voter] for voter in configuration.voters))
                outgoing = " ".join(sorted(self._names[voter] for voter in configuration.voters_outgoing))
                learners = " ".join(sorted(self._names[learner] for learner in configuration.learners))
                self._world.note(name, "config", f"{voters} | {outgoing} | {learners}", index=index)
            case Fenced(why=why):
                self._world.end(self._host, FencedError(why))
            case _:
                self._world.note(name, type(event).__name__.lower()[:12], str(event)[:90])

    # --- the disk ---------------------------------------------------------------------------------------------

    def _disk_delay(self) -> float:
        stalled = max(0.0, self._host.stalled_until - self._world.agenda.now)
        return stalled + self._rng.expovariate(1.0 / self._world.options.disk_delay_s)

    def _write_later(self, write: GroupWrite) -> None:
        self._world.later(self._host, self._disk_delay(), lambda: self._write(write))

    def _write(self, write: GroupWrite) -> None:
        if self._host.stalled_until > self._world.agenda.now:
            self._write_later(write)
            return
        try:
            self.store.write([write])
        except NoSpace:
            self.group.set_read_only(self.now(), "the disk is full")
            self._world.later(self._host, RETRY_S, lambda: self._write(write))
            self.perform()
            return
        self.group.written(self.now())
        self._mind_space()

    def _mind_space(self) -> None:
        """Hold proposals back while the reserve is in use, and look again until it is whole."""
        if self.store.low_space and not self.store.restore_space():
            self.group.set_read_only(self.now(), "the disk is full")
            self._world.later(self._host, RETRY_S, self._mind_space)
        else:
            self.group.set_read_only(self.now(), "")
        self.perform()

    def _save_later(self, save: SaveSnapshot) -> None:
        self._world.later(self._host, self._disk_delay(), lambda: self._save(save))

    def _save(self, save: SaveSnapshot) -> None:
        try:
            self.snapshots.save(LEDGER_GROUP, save.meta, save.payload)
        except NoSpace:
            self.group.snapshot_not_saved(self.now(), save.meta)
        else:
            self._world.note(self._host.name, "snap", index=save.meta.index)
            self.group.snapshot_saved(self.now(), save.meta)
        self.perform()

    def _compact(self, index: int) -> None:
        try:
            self.store.compact(LEDGER_GROUP, index)
        except NoSpace:
            self._world.note(self._host.name, "no space", "for a compaction")  # the next one includes it

    # --- pulling ----------------------------------------------------------------------------------------------

    def _pull(self, pull: Pull) -> None:
        def answered(response: object | None) -> None:
            if isinstance(response, PullAnswer | Piece):
                self.group.pull_answered(self.now(), pull.number, response)
            else:
                code = response.stable_code if isinstance(response, FreecloudError) else "unreachable"
                self.group.pull_failed(self.now(), pull.number, code)
            self.perform()

        self._rpc.call(self._names[pull.to], "ledger.pull", pull.request, pull.timeout_s, answered)

    def _serve_pull(self, source: str, request: object, answer: Callable[[object], None]) -> None:
        if isinstance(request, PieceRequest):
            answer(self.group.serve_piece(self.now(), request))
            self.perform()
            return
        assert isinstance(request, PullRequest)
        found = self.group.serve_pull(self.now(), request)
        if found.entries or found.use_snapshot or not request.wait_ms:
            answer(found)
            return
        waiting = (request, answer)
        self._pulls_waiting.append(waiting)
        self._world.later(self._host, request.wait_ms / 1000, lambda: self._answer_pull(waiting))

    def _answer_pulls(self) -> None:
        for waiting in list(self._pulls_waiting):
            self._answer_pull(waiting)

    def _answer_pull(self, waiting: tuple[PullRequest, Callable[[object], None]]) -> None:
        if waiting not in self._pulls_waiting:
            return
        self._pulls_waiting.remove(waiting)
        request, answer = waiting
        try:
            answer(self.group.serve_pull(self.now(), request))
        except FreecloudError as error:
            answer(error)
