"""D8: the disk hangs: nothing that is being written gets durable, though the process lives and answers."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    seconds = outage(world, rng)
    host.stalled_until = world.agenda.now + seconds
    return f"{host.name} for {seconds:.2f} s"
