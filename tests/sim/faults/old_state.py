"""D6: an older copy of a home comes back in its place: a snapshot of a virtual machine, a restored backup.

Between the copy and its return the node is started anew once or twice, and all others learn of that: then they can
tell (rule T3). A copy of the present start looks like the present start to everybody.
"""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.host import Host
from tests.sim.platter import Platter
from tests.sim.world import World

LOOK_S = 0.25
WAIT_S_MAX = 15.0


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or not world.may_lose_memory(host):
        return None
    copied = host.platter.copy()
    starts = rng.randint(1, 2)
    for turn in range(starts):
        world.agenda.after(turn * 1.5, _restart, world, host)
    world.agenda.after(
        starts * 1.5, _return, world, host, copied, outage(world, rng), world.agenda.now + WAIT_S_MAX, host.lives
    )
    return f"{host.name}, {starts} starts later"


def _restart(world: World, host: Host) -> None:
    if host.name not in world.calm_core:
        world.kill(host, "killed")
        world.start_later(host, 0.1)


def _return(world: World, host: Host, copied: Platter, delay: float, until: float, life: int) -> None:
    """Put the copy in the home's place, once the others could tell."""
    if host.name in world.calm_core or world.agenda.now > until:
        return
    if host.lives == life or not world.rollback_would_show(host) or not world.may_lose_memory(host):
        world.agenda.after(LOOK_S, _return, world, host, copied, delay, until, life)
        return
    world.suspects.add(host.name)
    world.kill(host, "killed")
    world.replace_disk(host, copied, "an old copy of it")
    world.start_later(host, delay)
