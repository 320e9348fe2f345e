"""D5: the disk is gone, and the same identity comes back with an empty one."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.platter import Platter
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or not world.may_lose_memory(host):
        return None
    world.suspects.add(host.name)
    world.kill(host, "killed")
    world.replace_disk(host, Platter(), "lost")
    world.start_later(host, outage(world, rng))
    return host.name
