"""C2: a monotonic clock runs too fast or too slow from now on, up to twice the drift that leases would allow for."""

from __future__ import annotations

import random

from tests.sim.faults.chance import running
from tests.sim.world import World

DRIFT_MAX = 0.2


def strike(world: World, rng: random.Random) -> str | None:
    host = running(world, rng)
    if host is None:
        return None
    rate = 1.0 + rng.uniform(-DRIFT_MAX, DRIFT_MAX)
    host.clock.set_rate(rate)
    world.rearm(host)
    return f"{host.name} at {rate:.3f}"
