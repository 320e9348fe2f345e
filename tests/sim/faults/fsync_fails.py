"""D2: an fsync fails once; the kernel then holds the pages for clean, and half of them never reached the disk.

Sometimes it is the storage behind all machines that fails, and sometimes the power goes next: only then is it seen
who trusted a second fsync that said "ok".
"""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running
from tests.sim.world import World

ALL_SHARE = 0.25
POWER_SHARE = 0.5


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    hosts = world.faultable() if rng.random() < ALL_SHARE else [host]
    times = rng.choice((1, 1, 1, 2))
    for each in hosts:
        each.faults.fsyncs_failing = times
    dark = rng.random() < POWER_SHARE
    if dark:
        world.agenda.after(rng.expovariate(3.0), _power_off, world, rng, [each.name for each in hosts])
    return f"{' '.join(each.name for each in hosts)}, {times} times{', then no power' if dark else ''}"


def _power_off(world: World, rng: random.Random, names: list[str]) -> None:
    for name in names:
        host = world.hosts[name]
        if name not in world.calm_core and host.process is not None:
            world.power_off(host, "power lost")
            world.start_later(host, outage(world, rng))
