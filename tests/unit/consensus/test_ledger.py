"""Real ledgers on the loopback: links, disks and all, a few nodes in one process."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from consensus.boot import next_boot
from consensus.disk import RealDisk
from consensus.group_effects import GroupConfig, Mode
from consensus.host import PULL_LOG
from consensus.ledger import Ledger, LedgerChanged
from consensus.ledger_entries import AddInvite, Admit, CreateMesh, Noop, PutApiToken
from consensus.log_store import LogOptions, LogStore
from consensus.pull import PullRequest
from consensus.records import ApiToken, Invite, Member, MemberStatus, MeshRecord
from mesh.errors import ConflictError, NoQuorumError, OutcomeUnknown, RefusedError
from mesh.names import MeshId, NodeId
from mesh.rpc import RpcServer
from tests.unit.mesh.nodes import MESH, Node, make_nodes, running

SMALL = LogOptions(segment_bytes=64 * 1024, ballast_bytes=64 * 1024)


def wall_ms() -> int:
    return int(time.time() * 1000)


def soon(seconds: float = 20.0) -> float:
    return trio.current_time() + seconds


def token(name: str) -> PutApiToken:
    return PutApiToken(ApiToken(name, name, b"h" * 32, ("read",), 0, 0))


async def propose(ledger: Ledger, name: str) -> None:
    await ledger.propose(token(name), deadline=soon())


@dataclass
class LedgerNode:
    """A node with its ledger; `start` and `stop` as often as a test likes."""

    node: Node
    home: Path
    founder: bool = False
    contacts: tuple[NodeId, ...] = ()
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def start(self, nursery: trio.Nursery) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.node.server = self.node.peers._server = RpcServer()  # a restart registers its methods anew
        store = LogStore.open(RealDisk(self.home / "log"), b"k" * 32, random_bytes=os.urandom, options=SMALL)
        boot = next_boot(RealDisk(self.home), store.store_id, os.urandom)
        self.boot = boot
        self.ledger = Ledger(
            self.node.id,
            MESH,
            boot,
            log=store,
            snapshots=RealDisk(self.home / "snapshots"),
            key=b"s" * 32,
            founder=self.founder,
            peers=self.node.peers,
            server=self.node.server,
            rng=random.Random(self.node.id + str(boot.counter)),
            wall_ms=wall_ms,
            contacts=self.contacts,
            config=GroupConfig(snapshot_entries=50),
        )
        await nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            await self.ledger.run(task_status=task_status)
        self.done.set()

    async def stop(self) -> None:
        self.scope.cancel()
        await self.done.wait()
        self.node.server = self.node.peers._server = RpcServer()  # what is stopped answers nothing

    def record(self) -> Member:
        identity = self.node.identity
        return Member(
            node_id=identity.node_id,
            name=identity.node_id[:4],
            public_key=identity.public_key,
            certificate=identity.certificate,
            trusted=True,
            may_invite=True,
            may_vote=True,
            zone="z",
            provider="",
            labels=(),
            addresses=(self.node.address,),
            status=MemberStatus.ACTIVE,
            boot=self.boot,
            joined_ms=1,
            seen_alive=True,
            feature_level=1,
            away_until_ms=0,
            relearn=False,
        )


@dataclass
class Mesh:
    nursery: trio.Nursery
    members: list[LedgerNode]

    def leader(self) -> LedgerNode | None:
        return next((member for member in self.members if not member.done.is_set() and member.ledger.is_leader), None)

    async def wait_leader(self) -> LedgerNode:
        async with trio.open_nursery() as nursery:
            for member in self.members:
                if not member.done.is_set():
                    nursery.start_soon(self._leads, member, nursery.cancel_scope)
        found = self.leader()
        assert found is not None
        return found

    async def _leads(self, member: LedgerNode, scope: trio.CancelScope) -> None:
        async with member.ledger.watch() as changes:
            while not member.ledger.is_leader:
                await changes.receive()
        scope.cancel()


@asynccontextmanager
async def mesh_of(folder: Path, count: int, *, voters: int) -> AsyncIterator[Mesh]:
    """A mesh of so many nodes, the first of them voters."""
    nodes = make_nodes(folder / "identities", count)
    async with running(nodes) as nursery:
        members = [LedgerNode(node, folder / str(number)) for number, node in enumerate(nodes)]
        members[0].founder = True
        for member in members:
            member.contacts = tuple(node.id for node in nodes if node is not member.node)
            await member.start(nursery)
        first = members[0].ledger
        created = CreateMesh(MeshRecord(MESH, 1, 1, wall_ms()), members[0].record(), ())
        await first.create_mesh(created, deadline=soon())
        invite = Invite("t", b"k" * 32, 50, wall_ms() + 3_600_000, nodes[0].id, True, (), (), False)
        await first.propose(AddInvite(invite), deadline=soon())
        for member in members[1:]:
            await first.propose(Admit("t", member.record(), ()), deadline=soon())
        for upto in range(1, voters):
            ids = frozenset(node.id for node in nodes[:upto])
            learner = frozenset({nodes[upto].id})
            await first.change_membership(ids, learner, deadline=soon())
            await _promote(first, ids | learner)
        for member in members:
            await member.ledger.wait_index(first.state.applied, deadline=soon())
        yield Mesh(nursery, members)
        for member in members:
            member.scope.cancel()


async def _promote(ledger: Ledger, voters: frozenset[NodeId]) -> None:
    """As soon as the learner has caught up, which the leader finds out by its next heartbeat."""
    while True:
        try:
            await ledger.change_membership(voters, frozenset(), deadline=soon())
        except (RefusedError, ConflictError):
            await ledger.read_barrier(deadline=soon())  # a round of heartbeats
        else:
            return


async def test_a_founder_alone_creates_a_mesh_and_finds_it_after_a_restart(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 1, voters=1) as mesh:
        (one,) = mesh.members
        committed = await one.ledger.propose(token("a"), deadline=soon())
        assert one.ledger.state.applied >= committed.index
        await one.stop()
        await one.start(mesh.nursery)
        await one.ledger.read_barrier(deadline=soon())
        assert "a" in one.ledger.state.tokens
        await one.ledger.propose(token("b"), deadline=soon())


async def test_any_node_proposes_reads_and_sees_the_same(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 4, voters=3) as mesh:
        assert mesh.members[3].ledger.status().mode is Mode.OBSERVER
        async with trio.open_nursery() as nursery:
            for number, member in enumerate(mesh.members):
                for turn in range(10):
                    nursery.start_soon(propose, member.ledger, f"{number}-{turn}")
        for member in mesh.members:
            await member.ledger.read_barrier(deadline=soon())
            assert len(member.ledger.state.tokens) == 40
            assert member.ledger.age() < 10
            assert member.ledger.quorum().voters == mesh.members[0].ledger.quorum().voters
        assert len({member.ledger.state.digest() for member in mesh.members}) == 1


async def test_a_refusal_by_the_ledger_is_the_error_that_it_is(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 2, voters=1) as mesh:
        await mesh.members[1].ledger.propose(token("a"), deadline=soon())
        with pytest.raises(ConflictError, match="exists already"):
            await mesh.members[1].ledger.propose(token("a"), deadline=soon())


async def test_the_leader_ends_and_the_others_go_on_and_it_comes_back(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 3, voters=3) as mesh:
        first = await mesh.wait_leader()
        await first.stop()
        others = [member for member in mesh.members if member is not first]
        await others[0].ledger.propose(token("a"), deadline=soon())
        assert others[0].ledger.term > 1
        await first.start(mesh.nursery)
        await first.ledger.read_barrier(deadline=soon())
        assert "a" in first.ledger.state.tokens


async def test_without_a_quorum_a_write_names_it_and_reads_go_on(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 3, voters=3) as mesh:
        stays = mesh.members[1]
        for member in mesh.members:
            if member is not stays:
                await member.stop()
        async with stays.ledger.watch() as changes:
            while stays.ledger.leader is not None:
                await changes.receive()
        with pytest.raises(NoQuorumError, match=r"of 3 voters reached \(.*, 2 needed"):
            await stays.ledger.propose(token("a"), deadline=soon(1.0))
        with pytest.raises(NoQuorumError):
            await stays.ledger.read_barrier(deadline=soon(0.5))
        assert not stays.ledger.quorum().has_leader
        assert len(stays.ledger.state.members) == 3


async def test_what_was_sent_and_never_answered_is_told_as_unknown(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 3, voters=3) as mesh:
        leader = await mesh.wait_leader()
        for member in mesh.members:
            if member is not leader:
                await member.stop()
        with pytest.raises(OutcomeUnknown):
            await leader.ledger.propose(token("a"), deadline=soon(3.0))


async def test_leadership_can_be_handed_over(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 3, voters=3) as mesh:
        leader = await mesh.wait_leader()
        successor = await leader.ledger.transfer_leadership(deadline=soon())
        assert successor != leader.node.id
        with pytest.raises(ConflictError):
            await leader.ledger.transfer_leadership(deadline=soon())


async def test_whoever_watches_is_told_and_a_slow_one_holds_nobody_up(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 1, voters=1) as mesh:
        ledger = mesh.members[0].ledger
        async with ledger.watch() as slow, ledger.watch() as changes:
            for number in range(5):
                committed = await ledger.propose(token(str(number)), deadline=soon())
            while (await changes.receive()).index < committed.index:
                pass
            assert isinstance(slow.receive_nowait(), LedgerChanged)
            with pytest.raises(trio.WouldBlock):
                slow.receive_nowait()


async def test_a_snapshot_is_taken_and_a_newcomer_starts_from_it(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 2, voters=1) as mesh:
        one, other = mesh.members
        await other.stop()
        for number in range(120):
            await one.ledger.propose(token(str(number)), deadline=soon())
        while one.ledger.status().snapshot_index == 0:
            await one.ledger.propose(Noop(), deadline=soon())
        await one.stop()
        await one.start(mesh.nursery)
        await one.ledger.read_barrier(deadline=soon())
        assert len(one.ledger.state.tokens) == 120
        await other.start(mesh.nursery)
        await other.ledger.wait_index(one.ledger.state.applied, deadline=soon())
        assert other.ledger.state.digest() == one.ledger.state.digest()


async def test_another_mesh_gets_nothing(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 2, voters=1) as mesh:
        one, other = mesh.members
        request = PullRequest(MeshId("b" * 26), 0, 1, 0, 0, 0)
        with pytest.raises(RefusedError, match="another mesh"):
            await other.node.peers.call(one.node.id, PULL_LOG, request, deadline=soon())


async def test_the_last_survivor_recovers_and_says_before_that_it_need_not(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 3, voters=3) as mesh:
        await mesh.members[0].ledger.propose(token("before"), deadline=soon())
        leader = await mesh.wait_leader()
        with pytest.raises(RefusedError, match="nothing to recover"):
            await leader.ledger.recover(2, deadline=soon())
        survivor = next(member for member in mesh.members if member is not leader)
        for member in mesh.members:
            if member is not survivor:
                await member.stop()
        async with survivor.ledger.watch() as changes:
            while survivor.ledger.leader is not None:
                await changes.receive()
        (alone,) = await survivor.ledger.survivors(deadline=soon())
        assert alone.node_id == await survivor.ledger.recover(2, deadline=soon())
        await survivor.ledger.propose(token("after"), deadline=soon())
        assert survivor.ledger.quorum().voters == (survivor.node.id,)
        assert survivor.ledger.status().epoch == 2
        assert survivor.ledger.state.mesh is not None
        assert survivor.ledger.state.mesh.epoch == 2
        assert set(survivor.ledger.state.tokens) == {"before", "after"}


async def test_what_was_changed_through_a_node_is_seen_there_at_once(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, 4, voters=3) as mesh:
        for member in mesh.members:
            committed = await member.ledger.propose(token(f"of-{member.node.id}"), deadline=soon())
            assert member.ledger.state.applied >= committed.index
