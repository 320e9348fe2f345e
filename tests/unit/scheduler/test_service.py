"""What a user asks of the scheduler, on a real ledger state and a real store; only the other nodes are imitated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio

from consensus.ledger import Committed, Ledger
from consensus.ledger_entries import AddInvite, Admit, Entry, Refused, SetApp
from consensus.ledger_state import LedgerState
from consensus.records import Invite, ReleaseState
from gossip.members import MemberState
from gossip.record import NodeRecord
from gossip.view import MemberView
from mesh.errors import Kind, ManifestError, MissingError, RefusedError, UsageError, rebuild
from mesh.names import NodeId
from scheduler.bundles import SHORT_HEX, BundleStore
from scheduler.exchange import BundleExchange
from scheduler.service import DEBT_RETRY_S, Scheduler
from tests.unit.consensus.test_ledger_state import HOUR, NOW, Script, member
from tests.unit.gossip.network import a_record

TEXT = "name: web\ncommand: python app.py\nreplicas: 2\n"


class LocalLedger:
    """The real state machine without replication."""

    def __init__(self) -> None:
        self.script = Script()

    @property
    def state(self) -> LedgerState:
        return self.script.state

    def age(self) -> float:
        return 0.0

    async def propose(self, entry: Entry, *, deadline: float) -> Committed:
        result = self.script.say(entry)
        if isinstance(result, Refused):
            raise rebuild(result.code, Kind(result.kind), result.what, result.why, result.hint)
        return Committed(self.state.applied, result.detail)

    async def wait_index(self, index: int, *, deadline: float) -> None:
        assert index <= self.state.applied

    async def read_barrier(self, *, deadline: float) -> int:
        return self.state.applied


class Willing:
    """Other nodes that keep what they are handed, as far as they are named."""

    def __init__(self, *nodes: NodeId) -> None:
        self.nodes = nodes
        self.asked = 0
        self.candidates: Sequence[NodeId] = ()

    async def push(
        self, bundle: str, candidates: Sequence[NodeId], count: int, *, deadline: float
    ) -> tuple[NodeId, ...]:
        self.asked += 1
        self.candidates = candidates
        return tuple(node for node in candidates if node in self.nodes)[:count]

    async def collect(self, needed: object) -> int:
        return 0


class Setting:
    def __init__(self, folder: Path, *, willing: bool = True) -> None:
        self.ledger = LocalLedger()
        self.me, self.other = self.ledger.script.founder, member(2)
        self.ledger.script.say(
            AddInvite(Invite("t", b"k" * 32, 1, NOW + HOUR, self.me.node_id, True, (), (), False))
        )
        self.ledger.script.say(Admit("t", self.other, ()))
        self.records: dict[NodeId, NodeRecord] = {}
        self.exchange = Willing(*([self.other.node_id] if willing else []))
        self.store = BundleStore(folder / "bundles", b"k" * 32)
        self.scheduler = Scheduler(
            self.me.node_id,
            ledger=cast(Ledger, self.ledger),
            sights=self.sights,
            store=self.store,
            exchange=cast(BundleExchange, self.exchange),
            now_ms=lambda: NOW,
        )

    def sights(self) -> dict[NodeId, MemberView]:
        return {
            node: MemberView(node, MemberState.ALIVE, 1, 0.0, self.records.get(node), 0.0, "")
            for node in self.ledger.state.active_members()
            if node != self.me.node_id
        }

    def grow_to(self, members: int) -> None:
        """More members, all alive, that keep what they are handed."""
        invite = Invite("more", b"k" * 32, members, NOW + HOUR, self.me.node_id, True, (), (), False)
        self.ledger.script.say(AddInvite(invite))
        for number in range(3, members + 1):
            self.ledger.script.say(Admit("more", member(number), ()))
        self.exchange.nodes = tuple(self.sights())

    def hear_of_copies(self, *holders: NodeId) -> None:
        """These tell by gossip that they have every source that lies here."""
        bundles = tuple(bundle[:SHORT_HEX] for bundle in self.store.list())
        self.records = {holder: a_record(holder, bundles=bundles) for holder in holders}

    async def deploy(self, text: str = TEXT) -> int:
        return (await self.scheduler.deploy(text, source(), deadline=trio.current_time() + 10)).release

    def become_stable(self) -> None:
        app = self.ledger.state.apps["web"]
        self.ledger.script.say(SetApp(app.current, replace(app, state=ReleaseState.STABLE)))


async def source() -> AsyncIterator[bytes]:
    yield b"an archive"


async def setting_in(folder: Path, *, willing: bool = True) -> Setting:
    setting = Setting(folder, willing=willing)
    await setting.store.open_store()
    return setting


async def test_a_release_names_the_two_nodes_that_have_its_source(tmp_path: Path) -> None:
    setting = await setting_in(tmp_path)
    deployed = await setting.scheduler.deploy(TEXT, source(), deadline=trio.current_time() + 10)
    assert deployed.holders == (setting.me.node_id, setting.other.node_id)
    assert deployed.debts == ()
    assert setting.ledger.state.releases["web", 1].holders == deployed.holders


async def test_a_source_on_one_node_is_a_debt_that_is_asked_for_with_patience(tmp_path: Path) -> None:
    setting = await setting_in(tmp_path, willing=False)
    deployed = await setting.scheduler.deploy(TEXT, source(), deadline=trio.current_time() + 10)
    assert len(deployed.debts) == len(setting.scheduler.debts("web")) == 1
    before = setting.exchange.asked

    woken = iter(range(5))

    async def wait(until: float) -> None:
        """Woken at once, by changes that have nothing to do with it."""
        assert until == pytest.approx(trio.current_time() + DEBT_RETRY_S, abs=1)
        if next(woken, None) is None:
            scope.cancel()
        await trio.lowlevel.checkpoint()

    with trio.CancelScope() as scope:
        await setting.scheduler.settle_debts(wait)
    assert setting.exchange.asked == before + 1


@pytest.mark.parametrize(("members", "asked"), [(2, 0), (4, 0), (5, 1)])
async def test_of_five_members_three_have_a_source_as_soon_as_the_second_is_heard_of(
    tmp_path: Path, members: int, asked: int
) -> None:
    setting = await setting_in(tmp_path)
    setting.grow_to(members)
    (_, second) = (await setting.scheduler.deploy(TEXT, source(), deadline=trio.current_time() + 10)).holders
    before = 0

    async def wait(until: float) -> None:
        """The first look knows of no copy yet, and asks; at the second one the copy was heard of."""
        nonlocal before
        if setting.records:
            scope.cancel()
        else:
            before = setting.exchange.asked
            setting.hear_of_copies(second)
        await trio.lowlevel.checkpoint()

    with trio.CancelScope() as scope:
        await setting.scheduler.settle_debts(wait)
    assert setting.me.node_id < second, "the first holder by name sees to it"
    assert setting.exchange.asked == before + asked
    assert not asked or second not in setting.exchange.candidates


async def test_wrong_wishes_are_refused_before_anything_is_proposed(tmp_path: Path) -> None:
    setting = await setting_in(tmp_path)
    soon = trio.current_time() + 10
    with pytest.raises(ManifestError):
        await setting.scheduler.deploy("name: Web", source(), deadline=soon)
    with pytest.raises(MissingError, match="not on this node"):
        await setting.scheduler.deploy(TEXT, "0" * 64, deadline=soon)
    with pytest.raises(MissingError, match="the secret KEY is not set"):
        await setting.scheduler.deploy(TEXT + "secrets: [KEY]\n", source(), deadline=soon)
    for call in (setting.scheduler.why, setting.scheduler.debts):
        with pytest.raises(MissingError, match="no app 'web'"):
            call("web")
    assert not setting.ledger.state.apps


async def test_rollback_returns_to_the_last_stable_release_and_never_to_itself(tmp_path: Path) -> None:
    setting = await setting_in(tmp_path)
    soon = trio.current_time() + 10
    await setting.deploy()
    with pytest.raises(MissingError, match="no earlier stable release"):
        await setting.scheduler.rollback("web", None, deadline=soon)
    setting.become_stable()
    assert await setting.deploy() == 2
    assert await setting.scheduler.rollback("web", None, deadline=soon) == 1
    assert setting.ledger.state.apps["web"].current == 1
    with pytest.raises(RefusedError):
        await setting.scheduler.rollback("web", 1, deadline=soon)
    with pytest.raises(MissingError, match="no release 9"):
        await setting.scheduler.rollback("web", 9, deadline=soon)


async def test_an_exclusive_app_is_not_scaled_above_one(tmp_path: Path) -> None:
    setting = await setting_in(tmp_path)
    await setting.deploy("name: web\ncommand: run\nexclusive: true\n")
    with pytest.raises(UsageError):
        await setting.scheduler.scale("web", 2, deadline=trio.current_time() + 10)


async def test_a_plan_tells_its_steps_and_proposes_nothing(tmp_path: Path) -> None:
    setting = await setting_in(tmp_path)
    report = await setting.scheduler.plan(TEXT, deadline=trio.current_time() + 10)
    assert [step.sign for step in report.steps] == ["~"]
    assert "has not told its capacity yet" in report.reasons[0]
    assert not setting.ledger.state.apps
