"""D2: an fsync fails once; the kernel then holds the pages for clean, and half of them never reached the disk."""

from __future__ import annotations

import random

from tests.sim.faults.chance import running
from tests.sim.world import World


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    host.faults.fsyncs_failing = rng.choice((1, 1, 1, 2))
    return f"{host.name}, {host.faults.fsyncs_failing} times"
