"""Snapshots: whole or not at all, sealed, and never taken for another."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from consensus.disk import NoSpace, RealDisk
from consensus.raft.messages import SnapshotMeta, configuration_of
from consensus.snapshot_store import PIECE_BYTES, SnapshotName, SnapshotStore
from mesh.errors import DamagedError
from mesh.names import NodeId
from tests.unit.consensus.memory_disk import MemoryDisk, PowerCut

KEY = b"k" * 32
MEMBERS = configuration_of(frozenset({NodeId("a")}), frozenset({NodeId("b")}))


def store_on(disk: MemoryDisk | RealDisk) -> SnapshotStore:
    return SnapshotStore(disk, KEY, random_bytes=random.Random(1).randbytes)


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, MEMBERS)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_what_was_saved_is_loaded(tmp_path: Path, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    store_on(RealDisk(tmp_path)).save(0, meta(7), payload)
    assert store_on(RealDisk(tmp_path)).newest(0, covering=0) == (meta(7), payload)


def test_the_newest_of_the_group_is_taken_and_old_ones_go() -> None:
    disk = MemoryDisk()
    store = store_on(disk)
    for index in (5, 10, 300):
        store.save(0, meta(index), b"%d" % index)
    store.save(1, meta(900), b"other group")
    assert [name.index for name in store.names(0)] == [300, 10]
    assert store.newest(0, covering=0) == (meta(300), b"300")
    assert store.newest(2, covering=0) is None


def test_nothing_of_it_stands_in_clear() -> None:
    disk = MemoryDisk()
    store_on(disk).save(0, meta(7), b"a password nobody may read")
    assert all(b"password" not in inode.content for inode in disk.names.values())


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_is_told_and_the_one_before_serves(seed: int) -> None:
    rng = random.Random(seed)
    disk = MemoryDisk()
    store = store_on(disk)
    store.save(0, meta(5), b"older")
    store.save(0, meta(9), rng.randbytes(300))
    name = SnapshotName(0, 9, 1)
    disk.flip(name.file(), rng.randrange(len(disk.names[name.file()].content)), 1 << rng.randrange(8))
    with pytest.raises(DamagedError):
        store.load(name)
    assert store.newest(0, covering=5) == (meta(5), b"older")
    with pytest.raises(DamagedError):
        store.newest(0, covering=6)


def test_a_file_under_another_name_is_refused() -> None:
    disk = MemoryDisk()
    store = store_on(disk)
    store.save(0, meta(5), b"five")
    disk.rename(SnapshotName(0, 5, 1).file(), SnapshotName(0, 9, 1).file())
    with pytest.raises(DamagedError, match="something else"):
        store.load(SnapshotName(0, 9, 1))


def test_a_log_without_its_snapshot_is_damage_and_never_a_new_beginning() -> None:
    with pytest.raises(DamagedError, match="begins behind entry 50"):
        store_on(MemoryDisk()).newest(0, covering=50)


def test_a_full_disk_leaves_what_was_there() -> None:
    disk = MemoryDisk(capacity_bytes=4000)
    store = store_on(disk)
    store.save(0, meta(5), b"five")
    with pytest.raises(NoSpace):
        store.save(0, meta(9), bytes(8000))
    assert store.newest(0, covering=0) == (meta(5), b"five")
    assert len(disk.list()) == 1


def test_power_cut_at_every_operation_leaves_the_old_one_or_the_new_one() -> None:
    rng = random.Random(1)
    for stop_at in range(1, 9):
        disk = MemoryDisk()
        store = store_on(disk)
        store.save(0, meta(5), b"five")
        disk.operations, disk.stop_at = 0, stop_at
        acknowledged = False
        try:
            store.save(0, meta(9), b"nine")
            acknowledged = True
        except PowerCut:
            pass
        found = store_on(disk.crash(rng)).newest(0, covering=5)
        assert found in ([(meta(9), b"nine")] if acknowledged else [(meta(9), b"nine"), (meta(5), b"five")])
