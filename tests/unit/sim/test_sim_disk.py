"""The simulated disk keeps the contract of the `Disk` seam, and breaks where its faults say."""

from __future__ import annotations

import random

import pytest

from consensus.disk import Disk, NoSpace, read_file, replace_file
from mesh.errors import DiskError, MissingError
from tests.sim.disk import DiskCounts, DiskFaults, ProcessDied, SimDisk
from tests.sim.platter import Platter


class Machine:
    def __init__(self, seed: int = 0) -> None:
        self.platter = Platter()
        self.faults = DiskFaults()
        self.rng = random.Random(seed)
        self.counts = DiskCounts()

    def process(self) -> SimDisk:
        return SimDisk(self.platter, self.faults, self.rng, self.counts)

    def power_off(self) -> None:
        self.platter.power_off(self.rng, 1.0)


def test_it_is_a_disk() -> None:
    disk: Disk = Machine().process()
    file = disk.create("a")
    disk.pwrite(file, 4, b"data")
    assert (disk.size(file), disk.read(file, 0, 99), disk.list()) == (8, b"\0\0\0\0data", ("a",))
    disk.rename("a", "b")
    disk.close(file)
    assert read_file(disk, "b") == b"\0\0\0\0data"
    disk.remove("b")
    disk.remove("b")
    with pytest.raises(MissingError):
        disk.open("b")


def test_a_replaced_file_is_the_old_or_the_new_one_at_every_crash_point() -> None:
    seen = set()
    for power in (False, True):
        for fuse in range(1, 12):
            machine = Machine(fuse)
            replace_file(machine.process(), "state", b"old")
            machine.faults.fuse = fuse
            died = False
            try:
                replace_file(machine.process(), "state", b"new")
            except ProcessDied:
                died = True
            if power:
                machine.power_off()
            found = read_file(machine.process(), "state")
            assert found == b"new" if not died else found in (b"old", b"new")
            seen.add((died, found))
    assert seen == {(True, b"old"), (True, b"new"), (False, b"new")}


def test_a_failed_fsync_is_told_once_and_its_writes_may_be_gone() -> None:
    lost = 0
    for seed in range(20):
        machine = Machine(seed)
        disk = machine.process()
        file = disk.create("a")
        disk.sync_folder()
        disk.pwrite(file, 0, b"x")
        machine.faults.fsyncs_failing = 1
        with pytest.raises(DiskError):
            disk.fsync(file)
        disk.fsync(file)
        machine.power_off()
        lost += read_file(machine.process(), "a") != b"x"
    assert 0 < lost < 20


def test_folders_are_apart_and_synced_apart() -> None:
    kept = set()
    for seed in range(20):
        machine = Machine(seed)
        one = SimDisk(machine.platter, machine.faults, machine.rng, machine.counts, "log/")
        other = SimDisk(machine.platter, machine.faults, machine.rng, machine.counts)
        one.create("a")
        other.create("a")
        one.sync_folder()
        assert (one.list(), other.list()) == (("a",), ("a",))
        machine.power_off()
        assert one.list() == ("a",)
        kept.add(other.list())
    assert kept == {(), ("a",)}


def test_a_lying_disk_loses_what_it_promised() -> None:
    machine = Machine(1)
    machine.faults.lying = True
    disk = machine.process()
    replace_file(disk, "a", b"x" * 4096)
    machine.power_off()
    assert machine.platter.names.get("a") is None or read_file(machine.process(), "a") != b"x" * 4096


def test_a_full_disk_refuses_growth_and_takes_what_was_reserved() -> None:
    machine = Machine()
    disk = machine.process()
    file = disk.create("a")
    disk.preallocate(file, 1000)
    machine.faults.capacity_bytes = 1100
    disk.pwrite(file, 0, b"x" * 1000)
    with pytest.raises(NoSpace):
        disk.pwrite(file, 1000, b"x" * 101)
    assert (disk.free_bytes(), machine.counts.no_space) == (100, 1)
    disk.remove("a")
    assert disk.free_bytes() == 1100


def test_a_killed_process_leaves_its_writes_to_the_next_one() -> None:
    machine = Machine()
    disk = machine.process()
    file = disk.create("a")
    disk.pwrite(file, 0, b"x")
    assert read_file(machine.process(), "a") == b"x"
