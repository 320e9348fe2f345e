"""D7: the disk is full but for little or nothing, and for a while."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running, unless_calm
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    room = rng.choice((0, 2048, 20_000))
    seconds = outage(world, rng) * 2
    host.faults.capacity_bytes = host.platter.used_bytes() + room

    def free() -> None:
        host.faults.capacity_bytes = 1 << 40

    world.agenda.after(seconds, unless_calm(world, host, free))
    return f"{host.name} but for {room} bytes, for {seconds:.2f} s"
