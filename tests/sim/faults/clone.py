"""D6: two machines run from one home: it was copied while the node was down, and both copies are started.

The original is started first, and the copy once everyone knows of that start: then the copy, which counts the same
start, is the one too many (rule T3). Before that nobody can tell which of two is the original.
"""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.host import Host
from tests.sim.platter import Platter
from tests.sim.world import World

LOOK_S = 0.25
KNOWN_S = 1.5
"""What everyone knows is on everyone's disk a little later."""

WAIT_S_MAX = 15.0


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or host.name in world.copies or host.faults.lying:
        return None
    if any(len(voters) == 1 for voters in world.configurations()):
        return None  # a copy of the only voter is a mesh of its own
    world.kill(host, "killed")
    copied = host.platter.copy()
    world.start_later(host, 0.1)
    delay = outage(world, rng)
    world.agenda.after(delay, _look, world, host, copied, world.agenda.now + WAIT_S_MAX)
    return f"{host.name}, after {delay:.2f} s"


def _look(world: World, host: Host, copied: Platter, until: float) -> None:
    if host.name in world.calm_core or host.name in world.copies or world.agenda.now > until:
        return
    if world.rollback_would_show(host):
        world.agenda.after(KNOWN_S, _begin, world, host, copied)
    else:
        world.agenda.after(LOOK_S, _look, world, host, copied, until)


def _begin(world: World, host: Host, copied: Platter) -> None:
    if host.name not in world.calm_core and host.name not in world.copies:
        world.run_copy(host, copied)
