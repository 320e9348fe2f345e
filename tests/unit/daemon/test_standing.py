"""A start registers itself, however often it has to ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from consensus.boot import Doubt, Start
from consensus.ledger import Ledger, Quorum
from consensus.ledger_entries import RegisterBoot
from consensus.ledger_state import LedgerState
from consensus.records import BootMark, MemberStatus
from daemon.pulse import Pulse
from daemon.standing import Standing, StartOver, register
from mesh.errors import FencedError, FreecloudError, NoQuorumError, OutcomeUnknown, RefusedError
from mesh.names import NodeId
from tests.unit.consensus.test_ledger_state import member

ME = NodeId("me")
BOOT = BootMark(b"s" * 16, 3, b"nonce123")
START = Start(BOOT, (BootMark(b"s" * 16, 2, b"earlier1"),), copied=True)


class Answers:
    """Proposals that end as the script says."""

    def __init__(self, *answers: FreecloudError | None) -> None:
        self.state = LedgerState()
        self.proposed: list[object] = []
        self.voters = (ME, NodeId("other"))
        self.doubt = Doubt(ME, doubted=START.copied)
        self.on_answer: Callable[[], None] = lambda: None
        self._answers = list(answers)

    async def propose(self, entry: object, *, deadline: float) -> None:
        self.proposed.append(entry)
        answer = self._answers.pop(0)
        self.on_answer()
        if answer is not None:
            raise answer

    def quorum(self) -> Quorum:
        return Quorum(self.voters, (), True, False)

    async def register(self) -> None:
        await register(cast(Ledger, cast(Any, self)), ME, START, new_store=False, doubt=self.doubt, pulse=Pulse())


@pytest.mark.autojump
async def test_a_start_without_a_quorum_or_without_an_answer_asks_again_and_the_node_lives() -> None:
    answers = Answers(NoQuorumError("none"), OutcomeUnknown("sent"), OutcomeUnknown("sent"), None)
    await answers.register()
    assert answers.proposed == [RegisterBoot(ME, BOOT, False, START.follows, True)] * 4


async def test_an_old_memory_starts_over_and_a_clone_ends() -> None:
    for code in ("fenced.old", "fenced.store"):
        with pytest.raises(StartOver):
            await Answers(RefusedError("no", code=code)).register()
    with pytest.raises(FencedError, match="running already"):
        await Answers(RefusedError("n1 is running already", code="fenced.clone")).register()


async def test_a_copy_from_which_its_owner_opened_an_epoch_is_not_moved_aside_for_what_was_said_before() -> None:
    answers = Answers(RefusedError("a copy", code="fenced.old"), None)

    def recover() -> None:
        answers.doubt.doubted = False

    answers.on_answer = recover
    await answers.register()
    assert [cast(RegisterBoot, entry).copied for entry in answers.proposed] == [True, False]


async def test_a_memory_that_nobody_else_holds_is_never_moved_aside() -> None:
    answers = Answers(RefusedError("n1 comes back with old state", code="fenced.old"))
    answers.voters = (ME,)
    with pytest.raises(FencedError, match="not of the same moment"):
        await answers.register()


NEWER = BootMark(b"s" * 16, 4, b"another!")
EMPTIED = BootMark(b"e" * 16, 1, b"thirdone")


@pytest.mark.parametrize("known", [NEWER, EMPTIED], ids=["later", "other-store"])
def test_a_copy_of_the_ledger_that_lags_fences_nobody(known: BootMark) -> None:
    """An old copy of a home pulls the ledger before it is registered, and so does a home that was emptied twice."""
    for relearn in (True, False):
        standing = Standing(BOOT)
        assert standing.judge(None) is None
        assert standing.judge(replace(member(1), boot=known, relearn=relearn)) is None
        assert standing.judge(replace(member(1), boot=BOOT)) is None


@pytest.mark.parametrize("known", [NEWER, EMPTIED], ids=["later", "other-store"])
def test_a_start_that_the_ledger_has_named_ends_when_another_takes_its_place(known: BootMark) -> None:
    standing = Standing(BOOT)
    assert standing.judge(replace(member(1), boot=BOOT)) is None
    told = standing.judge(replace(member(1), boot=known, relearn=True))
    assert told is not None and told.stable_code == "fenced.clone"


def test_a_removed_node_is_told_so_before_it_is_registered() -> None:
    told = Standing(BOOT).judge(replace(member(1), status=MemberStatus.REMOVED))
    assert told is not None and told.stable_code == "fenced.removed"
