"""The world drives any process: here a toy that counts, gossips its counter and keeps it on its disk."""

from __future__ import annotations

import random
from math import inf

import pytest

from consensus.disk import read_file, replace_file
from mesh.errors import DamagedError, DiskError
from tests.sim.faults.director import Director, strike_of
from tests.sim.host import Host
from tests.sim.options import FAULTS, draw, without
from tests.sim.world import World


class Toy:
    """Every second it adds one to its counter, stores it, and tells all others; it keeps the highest it hears."""

    def __init__(self, world: World, host: Host) -> None:
        self.life = f"{host.name}.{host.lives}"
        self._world, self._host = world, host
        self._disk = host.new_disk()
        stored = read_file(self._disk, "count") if "count" in self._disk.list() else b"0"
        if not stored.isdigit():
            raise DamagedError("the counter is damaged")
        self.count = int(stored)
        self.heard: dict[str, int] = {}
        self.closed: list[str] = []
        self._due = host.clock.monotonic() + 1.0

    def receive(self, source: str, message: object) -> None:
        assert isinstance(message, int)
        self.heard[source] = max(self.heard.get(source, 0), message)

    def link_closed(self, peer: str) -> None:
        self.closed.append(peer)

    def wake(self) -> None:
        while self._due <= self._host.clock.monotonic():
            self._due += 1.0
            self.count += 1
            replace_file(self._disk, "count", str(self.count).encode())
            self._world.note(self._host.name, "count", index=self.count)
            for other in self._world.hosts:
                if other != self._host.name:
                    self._world.network.send(self._host.name, other, self.count)

    def next_deadline(self) -> float:
        return self._due

    def start_mark(self) -> str:
        return self.life

    def starts_known(self) -> dict[str, str]:
        return {name: f"{name}.{host.lives}" for name, host in self._world.hosts.items()}

    def leads(self) -> bool:
        return self.life.startswith("n1.")

    def configurations(self) -> tuple[frozenset[str], ...]:
        return (frozenset(self._world.hosts),)

    def epoch(self) -> int:
        return 1


def toy_world(seed: int) -> World:
    world = World(draw(seed), ["n1", "n2", "n3"], Toy)
    for host in world.hosts.values():
        world.start(host)
    return world


def toy(world: World, name: str) -> Toy:
    process = world.hosts[name].process
    assert isinstance(process, Toy)
    return process


def test_time_messages_and_disk_reach_a_process() -> None:
    world = toy_world(1)
    world.calm(frozenset(world.hosts))
    world.agenda.run_until(10.5)
    assert 7 <= toy(world, "n1").count <= 12
    assert toy(world, "n1").heard["n2"] in (toy(world, "n2").count, toy(world, "n2").count - 1)


def test_a_killed_process_is_told_to_its_peers_and_comes_back_with_its_disk() -> None:
    world = toy_world(1)
    world.agenda.run_until(5.5)
    before = toy(world, "n1").count
    world.kill(world.hosts["n1"], "killed")
    world.agenda.run_until(6.0)
    assert toy(world, "n2").closed == ["n1"]
    assert world.start(world.hosts["n1"])
    assert toy(world, "n1").life == "n1.2"
    assert toy(world, "n1").count >= before


def test_power_loss_is_told_to_nobody() -> None:
    world = toy_world(1)
    world.agenda.run_until(5.5)
    world.power_off(world.hosts["n1"], "power lost")
    world.agenda.run_until(6.0)
    assert toy(world, "n2").closed == []
    world.start(world.hosts["n1"])
    assert toy(world, "n1").count >= 4  # each was stored with fsync, rename and a folder sync


def test_a_frozen_process_gets_its_mail_when_it_thaws() -> None:
    world = toy_world(1)
    world.agenda.run_until(2.5)
    host = world.hosts["n1"]
    world.freeze(host)
    process = toy(world, "n1")
    count, heard = process.count, dict(process.heard)
    world.agenda.run_until(8.5)
    assert (process.count, process.heard) == (count, heard)
    world.thaw(host)
    world.agenda.run_until(8.6)
    assert process.count >= count + 4
    assert process.heard["n2"] > heard["n2"]


def test_a_process_ended_by_its_disk_is_started_again() -> None:
    world = toy_world(1)
    world.hosts["n2"].faults.fsyncs_failing = 1
    world.agenda.run_until(1.4)
    assert world.hosts["n2"].process is None
    assert world.deaths == {"disk error": 1}
    world.agenda.run_until(4.0)
    assert toy(world, "n2").life == "n2.2"


def test_a_process_that_cannot_start_is_tried_again() -> None:
    attempts = []

    def start(world: World, host: Host) -> Toy:
        attempts.append(world.agenda.now)
        if len(attempts) < 3:
            raise DiskError("cannot read")
        return Toy(world, host)

    world = World(draw(1), ["n1"], start)
    assert not world.start(world.hosts["n1"])
    world.agenda.run_until(5.0)
    assert (len(attempts), world.hosts["n1"].lives) == (3, 3)


def test_memory_may_be_lost_only_by_a_minority_of_every_configuration() -> None:
    world = toy_world(1)
    assert world.may_lose_memory(world.hosts["n1"])
    world.suspects.add("n1")
    assert world.may_lose_memory(world.hosts["n1"])
    assert not world.may_lose_memory(world.hosts["n2"])


@pytest.mark.parametrize("fault", sorted({*FAULTS} - {"majority_lost"}))  # which takes a mesh to recover from
def test_every_fault_strikes_leaves_a_mark_and_ends(fault: str) -> None:
    told = 0
    for seed in range(4):
        world = toy_world(seed)
        strike = strike_of(fault)
        rng = random.Random(seed)
        for _ in range(10):
            world.agenda.run_until(world.agenda.now + 3.0)
            told += strike(world, rng) is not None
        world.calm(frozenset(world.hosts))
        world.agenda.run_until(world.agenda.now + 300.0)
        counts = {name: toy(world, name).count for name in world.hosts}
        world.agenda.run_until(world.agenda.now + 20.0)
        for name in world.hosts:
            process = toy(world, name)
            assert process.count >= counts[name] + 5 or fault == "rot"
            assert all(process.heard[other] > counts[other] for other in world.hosts if other != name)
            assert world.hosts[name].clock.true_time_of(process.next_deadline()) < inf
    assert told >= 4


def run_toy(seed: int) -> str:
    world = toy_world(seed)
    director = Director(world)
    director.begin()
    world.agenda.run_until(30.0)
    director.stop()
    return world.trace.text()


def test_the_same_seed_gives_the_same_trace() -> None:
    assert run_toy(3) == run_toy(3)
    assert run_toy(3) != run_toy(4)


def test_leaving_a_fault_out_leaves_the_others_strikes_where_they_were() -> None:
    options = next(options for options in map(draw, range(100)) if {"partition", "slow_node"} <= set(options.faults))

    def strikes(faults_of: World) -> list[str]:
        Director(faults_of).begin()
        faults_of.agenda.run_until(30.0)
        return [line[:10] for line in faults_of.trace.lines if " slow_node " in line]

    both = World(options, ["n1", "n2", "n3"], Toy)
    alone = World(without(options, "partition"), ["n1", "n2", "n3"], Toy)
    for world in (both, alone):
        for host in world.hosts.values():
            world.start(host)
    assert strikes(both) == strikes(alone) != []
