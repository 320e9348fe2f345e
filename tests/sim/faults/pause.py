"""C3: SIGSTOP, or a loop that stalls: the process stands still, its clock does not, and its mail waits."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running, unless_calm
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or host.frozen:
        return None
    seconds = outage(world, rng)
    life = host.lives
    world.freeze(host)

    def wake() -> None:
        if host.lives == life:
            world.thaw(host)

    world.agenda.after(seconds, unless_calm(world, host, wake))
    return f"{host.name} for {seconds:.2f} s"
