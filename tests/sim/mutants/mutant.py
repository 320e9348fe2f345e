"""What a planted bug is, and how it is planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from tests.sim.options import Options, draw
from tests.sim.simulation import Report, simulate

CONSENSUS_CHECKERS = ("committed", "invites", "liveness", "once", "one-leader", "replica-state", "wgl", "witness")
"""Who may notice a bug of consensus; that gossip complains of something else is no catch."""

Planting = Callable[[], Any]
"""Makes a context manager within which the bug exists."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug.

    Args:
        number: Of section 4 of the faults page.
        name: What is broken.
        plant: Makes the context in which it is.
        seed: The one that caught it; 0 while the hunter has not found any.
        faults, workloads: Added to what the seed draws, so that the bug's occasion arises at all.
        checkers: Who may notice. An assertion in the core is none of them.
    """

    number: int
    name: str
    plant: Planting
    seed: int
    faults: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    checkers: tuple[str, ...] = CONSENSUS_CHECKERS
    adjust: Callable[[Options], Options] = lambda options: options

    def options(self, seed: int) -> Options:
        """The seed's options with this bug's occasions."""
        drawn = draw(seed)
        return self.adjust(
            replace(
                drawn,
                faults=tuple(sorted({*drawn.faults, *self.faults})),
                workloads=tuple(sorted({*drawn.workloads, *self.workloads})),
            )
        )

    def caught(self, seed: int) -> Report | None:
        """The report of a run with the bug, if a checker noticed it."""
        with self.plant():
            report = simulate(self.options(seed), tolerant=True)
        return report if report.checker in self.checkers else None


def replacing(owner: Any, name: str, made: Callable[[Any], Any]) -> Planting:
    """A planting that replaces an attribute by `made(original)`."""

    @contextmanager
    def plant() -> Iterator[None]:
        with patch.object(owner, name, made(getattr(owner, name))):
            yield

    return plant
