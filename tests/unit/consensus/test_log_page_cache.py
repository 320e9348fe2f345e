"""What a process reads at its start may stand in the page cache alone; nothing is built on it before it is synced."""

from __future__ import annotations

import random

import pytest

from consensus.log_records import GroupWrite
from consensus.log_store import LogOptions, LogStore
from consensus.raft.messages import Configuration, EntryKind, LogEntry, SnapshotMeta
from consensus.snapshot_store import SnapshotStore
from mesh.errors import DiskError
from tests.sim.disk import DiskCounts, DiskFaults, ProcessDied, SimDisk
from tests.sim.platter import Platter

KEY = b"k" * 32
SMALL = LogOptions(segment_bytes=8192, ballast_bytes=0)


class Machine:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.platter = Platter()
        self.faults = DiskFaults()

    def disk(self) -> SimDisk:
        return SimDisk(self.platter, self.faults, self.rng, DiskCounts())

    def log(self) -> LogStore:
        return LogStore.open(self.disk(), KEY, random_bytes=self.rng.randbytes, options=SMALL)


def write(first: int, last: int) -> GroupWrite:
    entries = tuple(LogEntry(index, 1, EntryKind.NORMAL, b"x" * 200) for index in range(first, last + 1))
    return GroupWrite(0, entries=entries)


@pytest.mark.parametrize("how", ["killed", "fsync failed"])
def test_a_unit_that_was_never_synced_is_durable_once_a_later_start_has_built_on_it(how: str) -> None:
    seen_after_restart = 0
    for seed in range(60):
        machine = Machine(seed)
        log = machine.log()
        log.write([write(1, 3)])
        if how == "killed":
            machine.faults.fuse = 2  # the write is done, its fsync is not
        else:
            machine.faults.fsyncs_failing = 1
        with pytest.raises((DiskError, ProcessDied)):
            log.write([write(4, 6)])
        again = machine.log()
        found = [entry.index for entry in again.recovered(0).entries]
        seen_after_restart += len(found) == 6
        again.write([write(found[-1] + 1, found[-1] + 2)])
        machine.platter.power_off(machine.rng, 1.0)
        kept = [entry.index for entry in machine.log().recovered(0).entries]
        assert kept == [*found, found[-1] + 1, found[-1] + 2]
    assert seen_after_restart, "the page cache shows what was not synced"


def test_a_segment_whose_name_was_never_synced_is_durable_once_a_later_start_writes_to_it() -> None:
    for seed in range(40):
        machine = Machine(seed)
        log = machine.log()
        index = 1
        with pytest.raises(ProcessDied):
            while True:
                if index % 5 == 0:
                    machine.faults.fuse = machine.rng.randint(1, 12)
                log.write([write(index, index)])
                index += 1
        machine.faults.fuse = 0
        again = machine.log()
        found = [entry.index for entry in again.recovered(0).entries]
        again.write([write(found[-1] + 1, found[-1] + 1)])
        machine.platter.power_off(machine.rng, 1.0)
        assert [entry.index for entry in machine.log().recovered(0).entries] == [*found, found[-1] + 1]


def test_a_snapshot_that_a_later_start_found_survives_a_power_cut() -> None:
    meta = SnapshotMeta(7, 1, Configuration(frozenset(), frozenset(), frozenset()))
    found_after_death = 0
    for seed in range(60):
        machine = Machine(seed)
        store = SnapshotStore(machine.disk(), KEY, random_bytes=machine.rng.randbytes)
        machine.faults.fuse = machine.rng.randint(1, 12)
        try:
            store.save(0, meta, b"state" * 100)
        except ProcessDied:
            machine.faults.fuse = 0
            found = SnapshotStore(machine.disk(), KEY, random_bytes=machine.rng.randbytes).names(0)
            found_after_death += bool(found)
            machine.platter.power_off(machine.rng, 1.0)
            assert SnapshotStore(machine.disk(), KEY, random_bytes=machine.rng.randbytes).names(0) == found
    assert found_after_death
