"""The leader's loop: acts only while it leads, and forgets what it saw with every term."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from consensus.ledger import Committed, Ledger
from consensus.ledger_entries import Assign, Entry
from gossip.members import MemberState
from gossip.view import MemberView
from mesh.errors import ConflictError
from mesh.names import NodeId
from scheduler.leader import SchedulerLeader
from scheduler.manifest import Manifest, Rollout
from scheduler.model import EXCLUSIVE_WAIT_S
from tests.unit.scheduler.cluster import Cluster, member

ONE = Manifest("one", "run", exclusive=True, rollout=Rollout(1, 0))


class FakeLedger:
    """The facts of a small cluster, one replica of the log, and a switch for who leads."""

    def __init__(self, cluster: Cluster) -> None:
        self.state = cluster.facts
        self.is_leader = False
        self.term = 1
        self.refuse = 0
        self.proposed: list[Entry] = []
        self._cluster = cluster

    async def propose(self, entry: Entry, *, deadline: float) -> Committed:
        await trio.lowlevel.checkpoint()
        if self.refuse:
            self.refuse -= 1
            raise ConflictError("changed meanwhile")
        self.proposed.append(entry)
        assert self._cluster.say(entry)
        return Committed(self._cluster.index, "")


class Setting:
    def __init__(self) -> None:
        self.cluster = Cluster()
        for number in (1, 2, 3):
            self.cluster.join(member(number))
        self.ledger = FakeLedger(self.cluster)
        self.notes: list[tuple[str, str]] = []
        self._changed = trio.Event()
        self.leader = SchedulerLeader(
            cast(Ledger, self.ledger),
            sights=self.sights,
            wait=self._wait,
            note=lambda kind, text: self.notes.append((kind, text)),
        )

    def sights(self) -> dict[NodeId, MemberView]:
        return {
            node: MemberView(node, MemberState.ALIVE, 1, 0.0, self.cluster.record(node), 0.0, "")
            for node in self.cluster.machines
        }

    async def _wait(self, until: float) -> None:
        with trio.move_on_at(until):
            await self._changed.wait()

    async def change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        await trio.testing.wait_all_tasks_blocked()

    def starts(self) -> list[Assign]:
        return [entry for entry in self.ledger.proposed if isinstance(entry, Assign)]


@pytest.mark.autojump
async def test_it_proposes_only_while_it_leads_and_once() -> None:
    setting = Setting()
    setting.cluster.deploy(Manifest("web", "run", replicas=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.leader.run)
        await setting.change()
        assert not setting.ledger.proposed
        setting.ledger.is_leader = True
        await setting.change()
        await setting.change()
        assert len(setting.starts()) == 2
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_a_refused_plan_is_made_anew() -> None:
    setting = Setting()
    setting.cluster.deploy(Manifest("web", "run", replicas=2))
    setting.ledger.is_leader, setting.ledger.refuse = True, 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.leader.run)
        await trio.sleep(2)
        assert len(setting.starts()) == 2
        assert ("scheduler.refused", "changed meanwhile") in setting.notes
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
@pytest.mark.parametrize("noticed", [True, False])
async def test_another_term_begins_the_wait_of_an_exclusive_app_anew(noticed: bool) -> None:
    setting = Setting()
    setting.ledger.is_leader = True
    setting.cluster.deploy(ONE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.leader.run)
        await trio.sleep(EXCLUSIVE_WAIT_S - 1)
        assert not setting.starts()
        if noticed:
            setting.ledger.is_leader = False
            await setting.change()
            setting.ledger.is_leader = True
        setting.ledger.term += 1
        await setting.change()
        await trio.sleep(EXCLUSIVE_WAIT_S - 1)
        assert not setting.starts()
        await trio.sleep(2)
        assert len(setting.starts()) == 1
        nursery.cancel_scope.cancel()
