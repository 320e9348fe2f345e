"""N9: the link between two live nodes is reset; both kernels say so. Often it is the leader's."""

from __future__ import annotations

import random

from tests.sim.faults.chance import running
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    others = [other for other in world.alive() if other is not host]
    if host is None or not others:
        return None
    chosen = others if rng.random() < 0.3 else [rng.choice(others)]
    for other in chosen:
        if world.network.is_open(host.name, other.name) and world.network.is_open(other.name, host.name):
            world.network.reset(host.name, other.name)
    return f"{host.name} with {' '.join(other.name for other in chosen)}"
