"""P1: the process dies within one of its next changes of the disk, half of a write done."""

from __future__ import annotations

import random

from tests.sim.faults.chance import running
from tests.sim.world import World

EFFECTS_MAX = 40
"""Far enough to reach the middle of a compaction or of a start."""


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None or host.faults.fuse:
        return None
    host.faults.fuse = rng.randint(1, EFFECTS_MAX)
    return f"{host.name} at its effect {host.faults.fuse}"
