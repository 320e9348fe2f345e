"""C4: the host sleeps: the process stands still and so does its monotonic clock, while the world goes on."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running, unless_calm
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or host.frozen:
        return None
    seconds = outage(world, rng) * 2
    life = host.lives
    world.freeze(host)
    host.clock.suspend()

    def wake() -> None:
        host.clock.resume()
        if host.lives == life:
            world.thaw(host)
        world.rearm(host)

    world.agenda.after(seconds, unless_calm(world, host, wake))
    return f"{host.name} for {seconds:.2f} s"
