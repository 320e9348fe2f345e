"""N4, swizzle-clog: the links of a random subset stop one by one and return in another order, again and again.

Source: FoundationDB, documentation/sphinx/source/testing.rst.
"""

from __future__ import annotations

import random

from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    names = list(world.hosts)
    chosen = rng.sample(names, rng.randint(1, max(1, len(names) // 2)))
    turns = rng.randint(1, 4)
    pause = 0.05 + rng.random() * 0.6
    for turn in range(turns):
        begin = turn * pause * (len(chosen) + 1) * 2
        for place, name in enumerate(chosen):
            world.agenda.after(begin + place * pause, _set, world, name, True)
        for place, name in enumerate(rng.sample(chosen, len(chosen))):
            world.agenda.after(begin + (len(chosen) + place) * pause, _set, world, name, False)
    return f"{' '.join(chosen)}, {turns} times every {pause:.2f} s"


def _set(world: World, name: str, cut: bool) -> None:
    change = world.network.cut if cut else world.network.mend
    for other in world.hosts:
        if other != name:
            change(name, other)
            change(other, name)
