"""An answer that one task waits for and another gives."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

AnswerT = TypeVar("AnswerT")


class Waiting(Generic[AnswerT]):
    """Given once; a second answer is a late one and changes nothing. Waiting has the deadline of its caller's scope."""

    def __init__(self) -> None:
        self._given = trio.Event()
        self._answers: list[AnswerT] = []

    def give(self, answer: AnswerT) -> None:
        """Wake who waits."""
        if not self._answers:
            self._answers.append(answer)
            self._given.set()

    async def wait(self) -> AnswerT:
        """The answer, as soon as it is there."""
        await self._given.wait()
        return self._answers[0]
