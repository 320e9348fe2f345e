"""How faults choose their victims and how long they last."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.sim.host import Host
from tests.sim.world import World


def running(world: World, rng: random.Random) -> Host | None:
    """One of the hosts that have a process and may be touched."""
    hosts = [host for host in world.faultable() if host.process is not None]
    return rng.choice(hosts) if hosts else None


def outage(world: World, rng: random.Random) -> float:
    """How long something lasts, in true seconds."""
    return 0.1 + rng.expovariate(1.0) * world.options.outage_s


def cut_for_a_while(world: World, rng: random.Random, paths: list[tuple[str, str]]) -> float:
    """Cut these directed paths and mend them later; returns for how long."""
    seconds = outage(world, rng)
    for source, target in paths:
        world.network.cut(source, target)

    def mend() -> None:
        for source, target in paths:
            world.network.mend(source, target)

    world.agenda.after(seconds, mend)
    return seconds


def unless_calm(world: World, host: Host, action: Callable[[], None]) -> Callable[[], None]:
    """The end of a fault, void once the calm has ended it already."""

    def act() -> None:
        if host.name not in world.calm_core:
            action()

    return act
