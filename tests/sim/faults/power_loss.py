"""D1: the power goes, for one machine or for all at once; nobody is told, unsynced writes are hurt."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.world import World

ALL_SHARE = 0.25
"""How often the whole mesh goes dark together (fault P6: all start at once)."""


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    hosts = list(world.faultable()) if rng.random() < ALL_SHARE else [host]
    hurt = 0
    for each in hosts:
        if each.process is not None:
            hurt += world.power_off(each, "power lost")
            world.start_later(each, outage(world, rng))
    return f"{' '.join(each.name for each in hosts)}, {hurt} writes hurt"
