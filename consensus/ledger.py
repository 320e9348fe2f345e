"""The ledger as a node uses it: propose, read, watch.

`state` is this node's copy: reading it is free, `age` says how old it may be, `read_barrier` makes it as new as any
write that was finished before. `propose` reaches the leader from anywhere and is applied exactly once, or says what is
known instead. Nobody here is told *what* changed: whoever watches looks at the state anew.

The shell around three machines: the group (`group.Group`), the state (`ledger_state.LedgerState`) and the requests of
this node (`proposer.Proposer`).
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from consensus.beginnings import LEDGER_GROUP, founding_write
from consensus.boot import Doubt, fenced_error, mark_of
from consensus.disk import Disk
from consensus.group import Group
from consensus.group_effects import Fenced, GroupConfig, GroupOutput, GroupStatus
from consensus.host import Host, HostStatistics
from consensus.ledger_entries import CreateMesh, Done, Entry, OpenEpoch, Refused
from consensus.ledger_state import LedgerState
from consensus.log_records import recovered_from
from consensus.log_store import LogStore
from consensus.proposals import Proposals
from consensus.proposer import Decided, Expired, Outcome, Rejected, Unknown
from consensus.raft.messages import Configuration
from consensus.raft.outputs import Busy, NotLeader, RaftStatus, Refusal
from consensus.read_indexes import ReadIndexes
from consensus.records import BootMark
from consensus.recovery import Recovery, Survivor
from consensus.snapshot_store import SnapshotStore
from consensus.watchers import LedgerChanged as LedgerChanged
from consensus.watchers import Watchers
from mesh.errors import (
    ConflictError,
    DeadlineError,
    ExhaustedError,
    Kind,
    MissingError,
    NoQuorumError,
    OutcomeUnknown,
    RefusedError,
    UnavailableError,
    rebuild,
)
from mesh.mux_events import ANSWERING_S
from mesh.names import MeshId, NodeId
from mesh.peers import Peers
from mesh.rpc import RpcServer

RETRY_S = 0.1

OWN_WRITE_S = 1.0
"""How long a change that the leader has acknowledged is waited for here; several heartbeats."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Applied at this index; `detail` is what apply decided (a name, a replica's id)."""

    index: int
    detail: str


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who decides, as far as this node knows."""

    voters: tuple[NodeId, ...]
    reached: tuple[NodeId, ...]  # those that answer this node directly, itself included
    has_leader: bool
    by_hearsay: bool  # the leader is known through others alone: nothing passes between it and this node

    @property
    def needed(self) -> int:
        return len(self.voters) // 2 + 1


class Ledger:
    """This node's part in the ledger.

    Args:
        node_id: This node.
        mesh_id: Whose ledger; once there is one in the state, that counts.
        boot: This start.
        log: Opened; the ledger's own from now on.
        snapshots: The folder of its snapshots.
        key: 32 bytes, for the snapshots at rest.
        founder: This node makes the mesh: an empty log is begun with itself as the only voter.
        peers: How others are reached.
        server: Where the ledger's methods are registered.
        rng: For timeouts and jitter.
        wall_ms: The wall clock, shown to people and compared with expiries when this node leads.
        contacts: Members known from elsewhere, for as long as the state is empty.
        config: Of the group.
        doubt: Whether this node's memory is to be trusted.

    Raises:
        DamagedError: The log or the snapshots are damaged, or do not fit together.
    """

    def __init__(
        self,
        node_id: NodeId,
        mesh_id: MeshId,
        boot: BootMark,
        *,
        log: LogStore,
        snapshots: Disk,
        key: bytes,
        founder: bool,
        peers: Peers,
        server: RpcServer,
        rng: random.Random,
        wall_ms: Callable[[], int],
        contacts: Iterable[NodeId] = (),
        config: GroupConfig | None = None,
        doubt: Doubt | None = None,
    ) -> None:
        self._me = node_id
        self._peers = peers
        self._contacts = tuple(contacts)
        self._doubt = doubt or Doubt(node_id, doubted=False)
        store = SnapshotStore(snapshots, key, random_bytes=rng.randbytes)
        if founder and log.is_empty:
            founding = founding_write(node_id)
            log.write([founding])
            recovered = recovered_from(founding)
        else:
            recovered = log.recovered(LEDGER_GROUP)
        self._group = Group(
            config or GroupConfig(),
            mark_of(node_id, boot),
            group=LEDGER_GROUP,
            mesh_id=mesh_id,
            recovered=recovered,
            snapshot=store.newest(LEDGER_GROUP, covering=recovered.base),
            new_machine=LedgerState,
            facts=self._doubt.peer_facts,
            rng=rng,
            now=trio.current_time(),
        )
        self._host = Host(log, store, peers, server, sources=self._sources)
        self._host.add(LEDGER_GROUP, self._group, self._take_output)
        wake = self._host.wake
        self._proposals = Proposals(
            node_id, self._group, peers, server, rng=rng, wall_ms=wall_ms, sources=self._sources, wake=wake
        )
        self._read_indexes = ReadIndexes(self._group, peers, server, sources=self._sources, wake=wake)
        self._recovery = Recovery(
            node_id, self._group, peers, server, doubt=self._doubt, sources=self._others, wake=wake
        )
        self._moved = trio.Event()
        self._watchers = Watchers()
        self._seen: tuple[int, NodeId | None, bool] = (self.state.applied, None, False)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled.

        Raises:
            DiskError: A durable write failed.
            FencedError: See `boot.fenced_error`.
            UpgradeNeeded: The ledger holds an entry that this program does not know.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._host.run)
            nursery.start_soon(self._proposals.run)
            task_status.started()

    # --- reading ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> LedgerState:
        """This node's copy."""
        machine = self._group.machine
        assert isinstance(machine, LedgerState), "the ledger's group applies to a ledger state"
        return machine

    @property
    def leader(self) -> NodeId | None:
        """Whom this node takes for the leader."""
        return self._group.leader

    @property
    def is_leader(self) -> bool:
        """This node leads, and its own no-op is committed."""
        return self._group.is_leader

    @property
    def term(self) -> int:
        return self._group.status().term

    def age(self) -> float:
        """Seconds since this copy was known to be a live leader's; inf: never since the start."""
        return self._group.age(trio.current_time())

    def quorum(self) -> Quorum:
        """Who decides, and which of them this node reaches."""
        voters = self._group.configuration.all_voters()
        reached = tuple(each for each in voters if each == self._me or self._peers.silent_s(each) < ANSWERING_S)
        return Quorum(voters, reached, self._group.leader is not None, self._group.is_hearsay)

    def status(self) -> GroupStatus:
        return self._group.status()

    def raft_status(self) -> RaftStatus:
        """The Raft replica's; only a node in the configuration has one.

        Raises:
            MissingError: This node is an observer.
        """
        raft = self._group.status().raft
        if raft is None:
            raise MissingError("this node is an observer of the ledger")
        return raft

    def statistics(self) -> HostStatistics:
        return self._host.statistics()

    async def read_barrier(self, *, deadline: float) -> int:
        """Wait until `state` is at least as new as any write that was finished before this call; returns its index.

        Raises:
            NoQuorumError: Nobody could prove in time to lead.
        """
        with trio.move_on_at(deadline):
            while True:
                index = await self._read_indexes.ask(deadline)
                if index is not None:
                    await self.wait_index(index, deadline=deadline)
                    return self.state.applied
                await self._pause(deadline)
        raise self._no_quorum("no leader could prove in time that it leads")

    async def wait_index(self, index: int, *, deadline: float) -> None:
        """Wait until this copy has applied the entry.

        Raises:
            DeadlineError: Not in time.
        """
        while self.state.applied < index:
            moved = self._moved
            with trio.move_on_at(deadline) as scope:
                await moved.wait()
            if scope.cancelled_caught:
                raise DeadlineError(f"this node has not heard of entry {index} in time")

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[LedgerChanged]]:
        """A channel with an item whenever something was applied or the leader changed; many changes may be one item."""
        with self._watchers.watch() as changes:
            yield changes

    # --- writing ----------------------------------------------------------------------------------------------

    async def propose(self, entry: Entry, *, deadline: float) -> Committed:
        """Have this applied, exactly once; `state` shows it, unless this copy is out of touch for more than a moment.

        Raises:
            NoQuorumError: No leader could be reached in time; nothing happened.
            UnavailableError: The leader would not take it in time (its disk is full); nothing happened.
            OutcomeUnknown: It was sent, and nobody could tell in time what became of it.
            ExhaustedError: Too much is waiting on this node, or the entry is too large.
            FreecloudError: It was applied, and refused by what the mesh has agreed on.
        """
        committed = self._committed(await self._proposals.propose(entry, deadline=deadline))
        # Whoever changes something through this node finds it changed here.
        with trio.move_on_after(OWN_WRITE_S), suppress(DeadlineError):
            await self.wait_index(committed.index, deadline=deadline)
        return committed

    async def create_mesh(self, entry: CreateMesh, *, deadline: float) -> Committed:
        """The founder's first entry."""
        return await self.propose(entry, deadline=deadline)

    async def change_membership(
        self, voters: frozenset[NodeId], learners: frozenset[NodeId], *, deadline: float
    ) -> Configuration:
        """Make these the voters and learners, and wait until that is agreed. Only the leader can.

        Raises:
            ConflictError: Not now: another change is under way, or this node does not lead (any more).
            RefusedError: It would leave no live quorum, or names a voter that has not caught up.
            DeadlineError: It was appended, and not agreed in time.
        """
        taken = self._group.change_membership(trio.current_time(), voters, learners)
        self._host.wake()
        if isinstance(taken, NotLeader | Busy):
            raise ConflictError("the voters cannot be changed now", why=taken.reason)
        if isinstance(taken, Refusal):
            raise RefusedError("the voters stay as they are", why=taken.reason, code="ledger.voters")
        await self.wait_index(taken, deadline=deadline)
        while (raft := self._group.status().raft) is not None:
            if not raft.configuration.is_joint and raft.configuration_index <= raft.applied:
                break
            await self._wait_moved(deadline, "the change of voters was not finished in time")
        return self._group.configuration

    async def transfer_leadership(self, *, deadline: float) -> NodeId:
        """Hand leadership to another voter; returns who leads then.

        Raises:
            ConflictError: This node does not lead.
            RefusedError: No other voter could.
            DeadlineError: Nobody took over in time; this node may lead on.
        """
        status = self._group.status()
        if not status.is_leader or status.raft is None:
            raise ConflictError("this node does not lead")
        able = [peer for peer in status.raft.progress if not peer.is_learner and peer.heard_s_ago < 1.0]
        if not able:
            raise RefusedError("no other voter can take over", code="ledger.no-successor")
        target = max(able, key=lambda peer: (peer.match, peer.node_id)).node_id
        refusal = self._group.transfer(trio.current_time(), target)
        self._host.wake()
        if refusal is not None:
            raise ConflictError("leadership cannot be handed over now", why=refusal.reason)
        while self._group.leader in (None, self._me):
            await self._wait_moved(deadline, "nobody took over in time")
        leader = self._group.leader
        assert leader is not None
        return leader

    async def survivors(self, *, deadline: float) -> tuple[Survivor, ...]:
        """How far the logs of those reach that can be reached, the best first; for `recover`."""
        return await self._recovery.survivors(deadline=deadline)

    async def recover(self, epoch: int, *, deadline: float) -> NodeId:
        """Go on without the lost majority: the best survivor opens this epoch. An operator's decision alone (T5).

        Returns:
            The survivor that leads now; the voters are filled up from the living by its duties.

        Raises:
            RefusedError: Somebody hears a leader.
            ConflictError: Another epoch is the next one.
        """
        best = await self._recovery.open_epoch(epoch, deadline=deadline)
        while (mesh := self.state.mesh) is None or mesh.epoch < epoch:
            self.catch_up()
            opened = await self.propose(OpenEpoch(epoch, "the majority of the voters was lost"), deadline=deadline)
            await self.wait_index(opened.index, deadline=deadline)
        return best

    def catch_up(self) -> None:
        """There is a sign that this copy is behind (a stranger came): ask somebody now."""
        self._group.catch_up(trio.current_time())
        self._host.wake()

    def set_contacts(self, contacts: Iterable[NodeId]) -> None:
        """Members known from elsewhere, for as long as the state is empty."""
        self._contacts = tuple(contacts)
        self._host.refresh_sources()

    # --- what the group says ----------------------------------------------------------------------------------

    def _take_output(self, output: GroupOutput) -> None:
        for event in output.events:
            if isinstance(event, Fenced):
                raise fenced_error(event)
        self._proposals.take_output(output)
        self._read_indexes.take_output(output)
        seen = (output.applied_to, self._group.leader, self._group.is_leader)
        if seen != self._seen:
            self._seen = seen
            self._note_change(output.applied_to)

    def _note_change(self, applied: int) -> None:
        mesh = self.state.mesh
        if mesh is not None:
            self._group.set_mesh(mesh.mesh_id)
        self._moved.set()
        self._moved = trio.Event()
        self._watchers.tell(LedgerChanged(applied))
        self._proposals.note_change()
        self._host.refresh_sources()

    def _sources(self) -> Sequence[NodeId]:
        """Whom the log could be copied from: the linked ones of the other trusted members, or else all."""
        others = self._others()
        linked = self._peers.linked()
        return [node_id for node_id in others if node_id in linked] or others

    def _others(self) -> list[NodeId]:
        """The trusted members other than this one."""
        members = self.state.active_members()
        trusted = {node_id for node_id, member in members.items() if member.trusted} or set(self._contacts)
        return sorted(trusted - {self._me})

    # --- outcomes ---------------------------------------------------------------------------------------------

    def _committed(self, outcome: Outcome) -> Committed:
        match outcome:
            case Decided(index=index, result=Done(detail=detail)):
                return Committed(index, detail)
            case Decided(result=Refused() as refused):
                raise rebuild(refused.code, Kind(refused.kind), refused.what, refused.why, refused.hint)
            case Expired(leader=None, reason=reason):
                raise self._no_quorum(reason)
            case Expired(reason=reason):
                raise UnavailableError("the leader takes no changes now", why=reason, hint="nothing was changed")
            case Unknown(reason=reason):
                quorum = self._quorum_text()
                raise OutcomeUnknown(
                    "the change was sent and its answer was lost: it may or may not have happened",
                    why=f"{reason}; {quorum}",
                    hint="look before trying again",
                )
            case Rejected(reason=reason):
                raise ExhaustedError("the change is too large for the ledger", why=reason, code="limit.entry")
        raise AssertionError(f"no such outcome: {outcome}")

    def _no_quorum(self, reason: str) -> NoQuorumError:
        return NoQuorumError(
            f"no quorum: {self._quorum_text()}", why=reason, hint="nothing was changed; what runs goes on running"
        )

    def _quorum_text(self) -> str:
        quorum = self.quorum()
        silent = self._names(set(quorum.voters) - set(quorum.reached))
        others = f"; nothing is heard of {silent}" if silent else ""
        return (
            f"{len(quorum.reached)} of {len(quorum.voters)} voters reached ({self._names(quorum.reached)}{others}), "
            f"{quorum.needed} needed"
        )

    def _names(self, node_ids: Iterable[NodeId]) -> str:
        members = self.state.members
        return ", ".join(sorted(members[each].name if each in members else each for each in node_ids))

    # --- waiting ----------------------------------------------------------------------------------------------

    async def _wait_moved(self, deadline: float, what: str) -> None:
        moved = self._moved
        with trio.move_on_at(deadline) as scope:
            await moved.wait()
        if scope.cancelled_caught:
            raise DeadlineError(what)

    async def _pause(self, deadline: float) -> None:
        """Until something changes; a refusal without a change is asked again after a moment."""
        moved = self._moved
        with trio.move_on_at(min(deadline, trio.current_time() + RETRY_S)):
            await moved.wait()
