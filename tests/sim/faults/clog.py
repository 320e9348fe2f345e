"""N6 and the thin pipe: what is sent to one node is held on its way, on each path for a while of its own, and then
comes all at once and late; often the node is the leader, and often what it says does not get out meanwhile.

This is how a leader that was deposed long ago still hears acknowledgements of its better days.
"""

from __future__ import annotations

import random

from tests.sim.faults.chance import running
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    leaders = [host for host in world.faultable() if host.process is not None and host.process.leads()]
    host = leaders[0] if leaders and rng.random() < 0.7 else running(world, rng)
    if host is None:
        return None
    unit = world.options.constants.election_s_min
    others = [name for name in world.hosts if name != host.name]
    for name in others:
        world.network.clog(name, host.name, rng.uniform(0.5, 4.0) * unit)
    muted = rng.random() < 0.6
    if muted:
        for name in others:
            world.network.cut(host.name, name)
        world.agenda.after(rng.uniform(1.0, 5.0) * unit, _speak, world, host.name, others)
    return f"{host.name}{', muted' if muted else ''}"


def _speak(world: World, name: str, others: list[str]) -> None:
    for other in others:
        world.network.mend(name, other)
