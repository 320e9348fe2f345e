"""The gossip protocol alone, in meshes larger than whole nodes would be fast in, with what SWIM and Lifeguard claim.

    doubt     some nodes are sick: they stand still again and again. The healthy ones must not be called dead.
    death     some of the others lose their power: everyone healthy must know within a bound.
    return    all come back: everyone must see everyone again.

Source: the experiment of Lifeguard (DSN'18) §V, with its two measures: false positives and time to detection.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.sim.checkers.gossip import check_gossip, disagreements
from tests.sim.checkers.violation import Violation
from tests.sim.gossiping import Gossiping
from tests.sim.host import Host
from tests.sim.identities import node_id, public_key
from tests.sim.network import NetworkOptions
from tests.sim.options import Options, draw
from tests.sim.rpc import Call, Reply, Rpc
from tests.sim.world import World

SICK_SHARE = 0.25
MEET_S = 20.0
DOUBT_S = 40.0
RETURN_S = 60.0

FALSE_DEATHS_MAX = 0
"""Of nodes that were never sick: what Lifeguard is for."""


@dataclass(slots=True)
class GossipReport:
    """What came of a seed of gossip alone."""

    seed: int
    checker: str = ""
    failure: str = ""
    steps: int = 0
    nodes: int = 0
    false_deaths: int = 0
    detected_s: float = 0.0  # until everyone healthy knew of every death
    returned_s: float = 0.0
    digest: str = ""
    story: tuple[object, ...] = ()


class GossipProcess:
    """A process that does nothing but gossip."""

    def __init__(self, world: World, host: Host) -> None:
        self.life = f"{host.name}.{host.lives}"
        self._rpc = Rpc(world, host)
        names = {node_id(name): name for name in world.hosts}
        self.gossip = Gossiping(world, host, self._rpc, names, host.lives, host.rng.randbytes(8))
        self.gossip.set_members({known: public_key(name) for known, name in names.items()})

    def receive(self, source: str, message: object) -> None:
        if isinstance(message, bytes):
            self.gossip.receive(message)
        else:
            assert isinstance(message, Call | Reply)
            self._rpc.receive(source, message)

    def link_closed(self, peer: str) -> None:
        self.gossip.link_closed(peer)

    def wake(self) -> None:
        self.gossip.wake()

    def next_deadline(self) -> float:
        return self.gossip.swim.next_deadline()

    def start_mark(self) -> str:
        return self.life

    def starts_known(self) -> dict[str, str]:
        return {}

    def leads(self) -> bool:
        return False

    def configurations(self) -> tuple[frozenset[str], ...]:
        return ()

    def epoch(self) -> int:
        return 1


def gossip_options(seed: int) -> Options:
    """A seed's options, with a network in which the protocol's claims hold: some loss, no clogging."""
    options = draw(seed)
    rng = random.Random(f"gossip:{seed}")
    network = NetworkOptions(rng.uniform(0.0, 0.04), options.network.replay, 0.001, rng.uniform(0.001, 0.02), 0.0, 0.0)
    constants = replace(options.constants, probe_interval_s=1.0, probe_timeout_s=0.4)
    return replace(options, nodes=rng.randint(5, 20), network=network, drift=0.02, constants=constants)


def simulate_gossip(options: Options) -> GossipReport:
    """Run one seed; reports what a checker found."""
    report = GossipReport(options.seed, nodes=options.nodes)
    world = World(options, [f"n{number}" for number in range(1, options.nodes + 1)], GossipProcess)
    try:
        _run(world, report)
    except Violation as violation:
        report.checker, report.failure = violation.checker, str(violation)
    report.steps, report.digest = world.agenda.steps, world.trace.digest()
    return report


def _run(world: World, report: GossipReport) -> None:
    rng = world.random("gossip")
    for host in world.hosts.values():
        world.start(host)
    world.agenda.run_until(MEET_S)
    sick = rng.sample(list(world.hosts), int(len(world.hosts) * SICK_SHARE))
    for name in sick:
        _sicken(world, world.hosts[name], rng, MEET_S + DOUBT_S)
    marked = len(world.trace.lines)
    world.agenda.run_until(MEET_S + DOUBT_S)
    false_deaths = [line for line in world.trace.lines[marked:] if line.endswith("MemberDown")]
    false_deaths = [line for line in false_deaths if line.split()[-2] not in sick]
    report.false_deaths = len(false_deaths)
    if report.false_deaths > FALSE_DEATHS_MAX:
        raise Violation("false-death", f"{report.false_deaths} times a healthy node was called dead: {false_deaths[0]}")
    _settle(world, set(world.hosts), set(), RETURN_S)
    healthy = [name for name in world.hosts if name not in sick]
    dead = set(rng.sample(healthy, max(1, len(healthy) // 5)))
    for name in sorted(dead):
        world.power_off(world.hosts[name], "power lost")
    report.detected_s = _settle(world, set(world.hosts) - dead, dead, _detection_bound(world))
    for name in sorted(dead):
        world.start(world.hosts[name])
    report.returned_s = _settle(world, set(world.hosts), set(), RETURN_S)


def _detection_bound(world: World) -> float:
    """Every node is probed once in a round of everybody by somebody; then the suspicion, then the spreading."""
    interval = world.options.constants.probe_interval_s
    return 9.0 * interval


def _sicken(world: World, host: Host, rng: random.Random, until: float) -> None:
    """Let it stand still for 0.2 to 3 s, every few seconds, as a starved container does."""
    when = world.agenda.now
    while when < until - 4.0:
        when += 0.5 + rng.expovariate(0.5)
        world.agenda.at(when, world.freeze, host)
        when += rng.uniform(0.2, 3.0)
        world.agenda.at(when, world.thaw, host)


def _views(world: World, alive: set[str]) -> dict[str, dict[str, str]]:
    views: dict[str, dict[str, str]] = {}
    for name in alive:
        process = world.hosts[name].process
        assert isinstance(process, GossipProcess)
        views[name] = process.gossip.states()
    return views


def _settle(world: World, alive: set[str], dead: set[str], bound_s: float) -> float:
    """Wait until all of the living see it right; returns how long it took."""
    began = world.agenda.now
    while world.agenda.now < began + bound_s:
        if not disagreements(_views(world, alive), alive, dead):
            return world.agenda.now - began
        world.agenda.run_until(world.agenda.now + 0.25)
    check_gossip(_views(world, alive), alive, dead)
    return bound_s
