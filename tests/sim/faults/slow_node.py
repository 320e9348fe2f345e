"""P7, gray failure: everything to and from one node takes longer; it is not dead."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running, unless_calm
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    seconds = outage(world, rng)
    delay = world.options.constants.election_s_min * rng.uniform(0.1, 1.0)
    world.network.slow_down(host.name, delay)
    world.agenda.after(seconds, unless_calm(world, host, lambda: world.network.slow_down(host.name, 0.0)))
    return f"{host.name} by {delay * 1000:.0f} ms for {seconds:.2f} s"
