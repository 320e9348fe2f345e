"""C1: a wall clock jumps by up to two hours, either way; nothing may be ordered by it."""

from __future__ import annotations

import random

from tests.sim.faults.chance import running
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    seconds = rng.uniform(-7200.0, 7200.0)
    host.clock.step_wall(seconds)
    return f"{host.name} by {seconds:.0f} s"
