"""P1: kill -9 of a process; what it wrote is in the page cache and stays."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    seconds = outage(world, rng)
    world.kill(host, "killed")
    world.start_later(host, seconds)
    return f"{host.name} for {seconds:.2f} s"
