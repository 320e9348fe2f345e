"""N2: nothing passes in one direction: from one node to another, to all others, or from all others to it."""

from __future__ import annotations

import random

from tests.sim.faults.chance import cut_for_a_while
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    names = list(world.hosts)
    one = rng.choice(names)
    others = [name for name in names if name != one]
    shape = rng.choice(("out", "in", "pair"))
    if shape == "pair":
        others = [rng.choice(others)]
    paths = [(name, one) if shape == "in" else (one, name) for name in others]
    seconds = cut_for_a_while(world, rng, paths)
    return f"{one} {shape} {' '.join(others)} for {seconds:.2f} s"
