"""Lets the seed's faults strike, each on a schedule and with a chance of its own.

A fault's draws depend on the seed and its name alone, so that leaving one out (`options.without`) changes nothing
about when the others strike: that is how the effect of each is counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module

from tests.sim.world import World

Strike = Callable[[World, random.Random], "str | None"]


def strike_of(fault: str) -> Strike:
    """The function of a fault's file."""
    found: Strike = import_module(f"tests.sim.faults.{fault}").strike
    return found


class Director:
    """Runs the faults of the world's options until it is told to stop."""

    def __init__(self, world: World) -> None:
        self.struck: dict[str, int] = dict.fromkeys(world.options.faults, 0)
        self._world = world
        self._stopped = False

    def begin(self) -> None:
        """Have each fault's first strike come in its time."""
        for fault in self._world.options.faults:
            rng = self._world.random(f"fault:{fault}")
            self._next(fault, strike_of(fault), rng)

    def stop(self) -> None:
        """No further strikes; what has begun ends in its own time or with the calm."""
        self._stopped = True

    def _next(self, fault: str, strike: Strike, rng: random.Random) -> None:
        gap = rng.expovariate(1.0 / self._world.options.fault_gap_s)
        # A chance of its own for each strike: how many draws one makes must not move the next.
        self._world.agenda.after(gap, self._strike, fault, strike, rng, rng.getrandbits(64))

    def _strike(self, fault: str, strike: Strike, rng: random.Random, chance: int) -> None:
        if self._stopped:
            return
        told = strike(self._world, random.Random(chance))
        if told is not None:
            self.struck[fault] += 1
            self._world.note("!", fault, told)
        self._next(fault, strike, rng)
