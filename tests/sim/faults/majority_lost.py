"""T5: a majority of the voters' homes is destroyed at once; an operator recovers the mesh on a survivor.

The operator does what `freecloud recover` asks for: waits until every survivor answers and none hears a leader, has the
best one open the next epoch, and brings the lost machines back only when all survivors live in it. Some of them come
back with their old homes after all, but never so many that they could agree on anything by themselves.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from consensus.ledger_entries import OpenEpoch
from tests.sim.client import Answer
from tests.sim.faults.chance import outage
from tests.sim.node import Node
from tests.sim.platter import Platter
from tests.sim.world import World

LOOK_S = 0.25
PROPOSE_S = 5.0
VOTERS_MIN = 3


@dataclass(slots=True)
class Recovery:
    """One operator at work."""

    world: World
    rng: random.Random
    victims: tuple[str, ...]
    returning: frozenset[str]  # of the victims: with their old homes
    epoch: int  # to be opened
    chosen: str = ""  # the survivor that was told to open it: two of them would be two meshes
    chosen_disk: Platter | None = None
    asked: str = ""  # the life that was asked to tell everyone


def strike(world: World, rng: random.Random) -> str | None:
    configurations = world.configurations()
    epoch = max(host.epoch for host in world.hosts.values())
    if world.operators or world.copies or len(configurations) != 1 or epoch > 1:
        return None
    voters = sorted(next(iter(configurations)))
    if len(voters) < VOTERS_MIN or any(host.faults.lying for host in world.hosts.values()):
        return None
    victims = tuple(rng.sample(voters, len(voters) // 2 + 1))
    if not set(world.hosts) - set(victims) - world.suspects:
        return None  # where nobody is left who remembers the mesh, there is nothing to recover
    returning = frozenset(rng.sample(victims, rng.randint(0, len(victims) - 1)))
    for name in victims:
        world.hosts[name].gone = True
        world.suspects.add(name)
        world.kill(world.hosts[name], "destroyed")
    world.operators += 1
    recovery = Recovery(world, rng, victims, returning, epoch + 1)
    world.agenda.after(outage(world, rng), _look, recovery)
    return f"{' '.join(victims)}; old homes of {' '.join(sorted(returning)) or 'none'} are found again"


def _survivors(recovery: Recovery) -> list[Node]:
    """Those that answer, if all do."""
    hosts = [host for host in recovery.world.hosts.values() if host.name not in recovery.victims]
    nodes = [host.process for host in hosts if isinstance(host.process, Node) and not host.frozen]
    return nodes if len(nodes) == len(hosts) else []


def _look(recovery: Recovery) -> None:
    world, epoch = recovery.world, recovery.epoch
    survivors = _survivors(recovery)
    told = [node for node in survivors if node.state.mesh is not None and node.state.mesh.epoch == epoch]
    if survivors and len(told) == len(survivors):
        _bring_back(recovery)
        return
    if recovery.chosen and world.hosts[recovery.chosen].platter is not recovery.chosen_disk and not told:
        # The one disk that held the new epoch is gone, too: the operator would have to begin again, and this one rests.
        world.is_lost = True
        for node in survivors[:1]:
            node.agreeing.close_epoch(epoch)
        _bring_back(recovery)
        return
    opened = [node for node in survivors if node.epoch() == epoch]
    if survivors and not opened:
        best = max(survivors, key=lambda node: (node.name == recovery.chosen, node.agreeing.rank()))
        world.later(world.hosts[best.name], 0.0, lambda: _open(recovery, best))
    elif opened and not told and recovery.asked != opened[0].life:
        recovery.asked = opened[0].life
        world.later(world.hosts[opened[0].name], 0.0, lambda: _tell(recovery, opened[0]))
    world.agenda.after(LOOK_S, _look, recovery)


def _open(recovery: Recovery, best: Node) -> None:
    """As the best survivor does when the operator has said yes: only if nobody hears a leader."""
    survivors = _survivors(recovery)
    if survivors and all(node.agreeing.group.leader is None for node in survivors):
        held = {node.name: node.agreeing.held() for node in survivors}
        if best.agreeing.open_epoch(recovery.epoch, held):
            recovery.chosen, recovery.chosen_disk = best.name, recovery.world.hosts[best.name].platter


def _tell(recovery: Recovery, node: Node) -> None:
    """Have the ledger itself name the epoch, as the command does until it is agreed."""

    def answered(answer: Answer) -> None:
        recovery.asked = ""

    node.propose(OpenEpoch(recovery.epoch, "the majority of the voters was lost"), PROPOSE_S, answered)


def _bring_back(recovery: Recovery) -> None:
    world = recovery.world
    for name in recovery.victims:
        host = world.hosts[name]
        host.gone = False
        if name not in recovery.returning:
            world.replace_disk(host, Platter(), "destroyed")
        world.start_later(host, outage(world, recovery.rng))
    world.operators -= 1
