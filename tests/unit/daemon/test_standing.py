"""A start registers itself, however often it has to ask."""

from __future__ import annotations

from typing import Any, cast

import pytest

from consensus.ledger import Ledger
from consensus.ledger_entries import RegisterBoot
from consensus.ledger_state import LedgerState
from consensus.records import BootMark
from daemon.pulse import Pulse
from daemon.standing import StartOver, register
from mesh.errors import FencedError, FreecloudError, NoQuorumError, OutcomeUnknown, RefusedError
from mesh.names import NodeId

ME = NodeId("me")
BOOT = BootMark(b"s" * 16, 3, b"nonce123")


class Answers:
    """Proposals that end as the script says."""

    def __init__(self, *answers: FreecloudError | None) -> None:
        self.state = LedgerState()
        self.proposed: list[object] = []
        self._answers = list(answers)

    async def propose(self, entry: object, *, deadline: float) -> None:
        self.proposed.append(entry)
        answer = self._answers.pop(0)
        if answer is not None:
            raise answer

    async def register(self) -> None:
        await register(cast(Ledger, cast(Any, self)), ME, BOOT, new_store=False, pulse=Pulse())


@pytest.mark.autojump
async def test_a_start_without_a_quorum_or_without_an_answer_asks_again_and_the_node_lives() -> None:
    answers = Answers(NoQuorumError("none"), OutcomeUnknown("sent"), OutcomeUnknown("sent"), None)
    await answers.register()
    assert answers.proposed == [RegisterBoot(ME, BOOT, False)] * 4


async def test_an_old_memory_starts_over_and_a_clone_ends() -> None:
    for code in ("fenced.old", "fenced.store"):
        with pytest.raises(StartOver):
            await Answers(RefusedError("no", code=code)).register()
    with pytest.raises(FencedError, match="running already"):
        await Answers(RefusedError("n1 is running already", code="fenced.clone")).register()
