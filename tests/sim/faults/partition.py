"""N1: a full cut between two groups."""

from __future__ import annotations

import random

from tests.sim.faults.chance import cut_for_a_while
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    names = list(world.hosts)
    rng.shuffle(names)
    size = 1 if rng.random() < 0.4 else rng.randint(1, max(1, len(names) // 2))
    one, other = names[:size], names[size:]
    paths = [pair for a in one for b in other for pair in ((a, b), (b, a))]
    seconds = cut_for_a_while(world, rng, paths)
    return f"{' '.join(sorted(one))} | {' '.join(sorted(other))} for {seconds:.2f} s"
