"""A disk that says "durable" and lies, until the power goes and all that it promised since is gone.

The node is started anew while its disk lies, so that its counter of starts is among what is lost: that is how the
others can tell (rule T3). Raft alone cannot bear a liar that nobody notices, not even one.
"""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.host import Host
from tests.sim.world import World

LOOK_S = 0.25
WAIT_S_MAX = 12.0


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or host.faults.lying or not world.may_lose_memory(host):
        return None
    host.platter.sync_all()
    host.faults.lying = True
    world.kill(host, "killed")
    world.start_later(host, 0.1)
    delay = outage(world, rng)
    world.agenda.after(0.5 + delay, _cut, world, host, delay, world.agenda.now + WAIT_S_MAX, host.lives)
    return host.name


def _cut(world: World, host: Host, delay: float, until: float, life: int) -> None:
    """Cut the power once the others could tell; if that does not come, the lie had no consequence."""
    if host.name in world.calm_core:
        return
    if host.lives > life and world.rollback_would_show(host) and world.may_lose_memory(host):
        world.suspects.add(host.name)
        world.power_off(host, "power lost after lies", after_lies=True)
        host.faults.lying = False
        world.start_later(host, delay)
    elif world.agenda.now > until:
        host.platter.sync_all()
        host.faults.lying = False
    else:
        world.agenda.after(LOOK_S, _cut, world, host, delay, until, life)
