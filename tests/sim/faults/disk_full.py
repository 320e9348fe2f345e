"""D7: the disk is full but for little or nothing, and for a while."""

from __future__ import annotations

import random

from tests.sim.faults.chance import outage, running, unless_calm
from tests.sim.world import World

LEADER_SHARE = 0.5
"""A follower's full disk is noticed by nobody."""


def strike(world: World, rng: random.Random) -> str | None:
    leaders = [host for host in world.faultable() if host.process is not None and host.process.leads()]
    host = leaders[0] if leaders and rng.random() < LEADER_SHARE else running(world, rng)
    if host is None:
        return None
    room = rng.choice((0, 0, 1024, 8192))
    seconds = outage(world, rng) * 2
    host.faults.capacity_bytes = host.platter.used_bytes() + room

    def free() -> None:
        host.faults.capacity_bytes = 1 << 40

    world.agenda.after(seconds, unless_calm(world, host, free))
    return f"{host.name} but for {room} bytes, for {seconds:.2f} s"
