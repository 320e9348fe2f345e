"""What a planted bug is, and how it is planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from tests.sim.options import Options, draw
from tests.sim.simulation import Report, simulate

CONSENSUS_CHECKERS = (
    "committed",
    "invites",
    "liveness",
    "once",
    "one-leader",
    "recovered",
    "replica-state",
    "wgl",
    "witness",
)
"""Who may notice a bug of consensus; that gossip complains of something else is no catch."""

FAULT_GAP_S_MAX = 5.0
"""These runs are rougher than the others."""

SIZES = (0.25, 0.5, 1.0)
"""Shares of a seed's time that the hunter tries, the shortest first."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The seed that caught a planted bug, and the smallest size at which it still does."""

    seed: int
    size: float
    checker: str  # who noticed


Planting = Callable[[], Any]
"""Makes a context manager within which the bug exists."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug.

    Args:
        number: Of section 4 of the faults page.
        name: What is broken.
        plant: Makes the context in which it is.
        faults, workloads: Added to what the seed draws, so that the bug's occasion arises at all.
        checkers: Who may notice. An assertion in the core is none of them.
    """

    number: int
    name: str
    plant: Planting
    faults: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    checkers: tuple[str, ...] = CONSENSUS_CHECKERS
    adjust: Callable[[Options], Options] = lambda options: options

    def options(self, seed: int, size: float) -> Options:
        """The seed's options with this bug's occasions; a smaller size is a shorter time under faults."""
        drawn = draw(seed)
        return self.adjust(
            replace(
                drawn,
                safety_s=drawn.safety_s * size,
                faults=tuple(sorted({*drawn.faults, *self.faults})),
                fault_gap_s=min(drawn.fault_gap_s, FAULT_GAP_S_MAX),
                workloads=tuple(sorted({*drawn.workloads, *self.workloads})),
            )
        )

    def caught(self, seed: int, size: float = 1.0) -> Report | None:
        """The report of a run with the bug, if a checker noticed it."""
        with self.plant():
            report = simulate(self.options(seed, size), tolerant=True)
        return report if report.checker in self.checkers else None

    def is_clean(self, seed: int, size: float) -> bool:
        """Whether the very same run without the bug is green."""
        return not simulate(self.options(seed, size)).failure


def replacing(owner: Any, name: str, made: Callable[[Any], Any]) -> Planting:
    """A planting that replaces an attribute by `made(original)`."""

    @contextmanager
    def plant() -> Iterator[None]:
        with patch.object(owner, name, made(getattr(owner, name))):
            yield

    return plant
