"""P1, aimed: for a while every new leader dies soon after its election, some by a kill and some by a power cut; some
of them have not been able to say anything before.

Source: figure 8 of the Raft paper; chance alone arranges such a row of short reigns too rarely.
"""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage
from tests.sim.world import World

LOOK_S = 0.01
REIGNS_MAX = 4
MUTE_SHARE = 0.4


def strike(world: World, rng: random.Random) -> str | None:
    reigns = rng.randint(1, REIGNS_MAX)
    _watch(world, rng, reigns, world.agenda.now + 10.0)
    return f"the next {reigns}"


def _watch(world: World, rng: random.Random, reigns: int, until: float) -> None:
    if reigns == 0 or world.agenda.now > until or world.calm_core:
        return
    leaders = [host for host in world.faultable() if host.process is not None and host.process.leads()]
    if not leaders:
        world.agenda.after(LOOK_S, _watch, world, rng, reigns, until)
        return
    name = leaders[0].name
    muted = [other for other in world.hosts if other != name] if rng.random() < MUTE_SHARE else []
    for other in muted:
        world.network.cut(name, other)
    patience = rng.choice((0.0, 0.02, 0.1)) + rng.random() * 0.05
    world.agenda.after(patience, _end, world, rng, reigns, until, name, muted)


def _end(world: World, rng: random.Random, reigns: int, until: float, name: str, muted: list[str]) -> None:
    host = world.hosts[name]
    if name not in world.calm_core and host.process is not None:
        if rng.random() < 0.5:
            world.kill(host, "killed")
        else:
            world.power_off(host, "power lost")
        world.start_later(host, outage(world, rng))
    for other in muted:
        world.network.mend(name, other)
    _watch(world, rng, reigns - 1, until)
