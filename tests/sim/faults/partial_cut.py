"""N3: some pairs do not see each other, though others see both."""

from __future__ import annotations

import random

from tests.sim.faults.chance import cut_for_a_while
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    names = list(world.hosts)
    pairs = [(a, b) for position, a in enumerate(names) for b in names[position + 1 :]]
    chosen = rng.sample(pairs, rng.randint(1, max(1, len(pairs) // 3)))
    seconds = cut_for_a_while(world, rng, [path for a, b in chosen for path in ((a, b), (b, a))])
    return f"{' '.join(f'{a}-{b}' for a, b in chosen)} for {seconds:.2f} s"
