"""P1, aimed: for a while every new leader dies soon after its election, some by a kill and some by a power cut.

Source: figure 8 of the Raft paper; chance alone arranges such a row of short reigns too rarely.
"""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage
from tests.sim.world import World

LOOK_S = 0.01
REIGNS_MAX = 4


def strike(world: World, rng: random.Random) -> str | None:
    reigns = rng.randint(1, REIGNS_MAX)
    patience = rng.choice((0.0, 0.02, 0.1)) + rng.random() * 0.05
    _watch(world, rng, reigns, patience, world.agenda.now + 10.0)
    return f"the next {reigns}, each after {patience * 1000:.0f} ms"


def _watch(world: World, rng: random.Random, reigns: int, patience: float, until: float) -> None:
    if reigns == 0 or world.agenda.now > until or world.calm_core:
        return
    leaders = [host for host in world.faultable() if host.process is not None and host.process.leads()]
    if leaders:
        world.agenda.after(patience, _end, world, rng, reigns, patience, until, leaders[0].name)
    else:
        world.agenda.after(LOOK_S, _watch, world, rng, reigns, patience, until)


def _end(world: World, rng: random.Random, reigns: int, patience: float, until: float, name: str) -> None:
    host = world.hosts[name]
    if name not in world.calm_core and host.process is not None:
        if rng.random() < 0.5:
            world.kill(host, "killed")
        else:
            world.power_off(host, "power lost")
        world.start_later(host, outage(world, rng))
    _watch(world, rng, reigns - 1, patience, until)
