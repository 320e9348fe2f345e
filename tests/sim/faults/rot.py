"""D4: one bit of what a machine has stored is not what was written; it is noticed at the next start, here at once."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or not world.may_lose_memory(host):
        return None
    files = [(name, inode) for name, inode in sorted(host.platter.names.items()) if len(inode.cached)]
    if not files:
        return None
    name, inode = rng.choice(files)
    offset, bit = rng.randrange(len(inode.cached)), rng.randrange(8)
    inode.flip(offset, bit)
    world.suspects.add(host.name)
    world.kill(host, "killed")
    world.start_later(host, outage(world, rng))
    return f"{host.name} {name} byte {offset} bit {bit}"
