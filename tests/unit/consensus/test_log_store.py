"""The log store: acknowledged is durable, whatever stops it and wherever."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from consensus.disk import NoSpace, RealDisk
from consensus.log_records import GroupWrite, Recovered
from consensus.log_store import BALLAST, LogOptions, LogStore
from consensus.raft.messages import EntryKind, HardState, LogEntry
from mesh.errors import DamagedError, DiskError
from mesh.names import NodeId
from tests.unit.consensus.memory_disk import MemoryDisk, PowerCut

KEY = b"k" * 32
SMALL = LogOptions(segment_bytes=16 * 1024, ballast_bytes=32 * 1024)


def open_store(disk: MemoryDisk | RealDisk, seed: int = 1, options: LogOptions = SMALL) -> LogStore:
    return LogStore.open(disk, KEY, random_bytes=random.Random(seed).randbytes, options=options)


def entries(first: int, last: int, term: int = 1, size: int = 20) -> tuple[LogEntry, ...]:
    return tuple(
        LogEntry(index, term, EntryKind.NORMAL, b"%d:%d:" % (index, term) + b"x" * size)
        for index in range(first, last + 1)
    )


def indexes(recovered: Recovered) -> list[int]:
    return [entry.index for entry in recovered.entries]


def test_a_new_store_has_an_id_that_stays(tmp_path: Path) -> None:
    store = open_store(RealDisk(tmp_path / "log"))
    assert store.created
    store.close()
    again = open_store(RealDisk(tmp_path / "log"), seed=2)
    assert not again.created
    assert again.store_id == store.store_id
    again.close()


def test_everything_a_group_wrote_comes_back_after_a_restart(tmp_path: Path) -> None:
    store = open_store(RealDisk(tmp_path))
    config = LogEntry(3, 2, EntryKind.CONFIG, b"config")
    store.write(
        [
            GroupWrite(0, hard_state=HardState(2, NodeId("a")), entries=(*entries(1, 2), config), commit=2, epoch=4),
            GroupWrite(9, entries=entries(1, 1)),
        ]
    )
    store.write([GroupWrite(0, truncate_from=2, entries=entries(2, 4, term=3))])
    store.close()
    again = open_store(RealDisk(tmp_path), seed=2)
    assert again.groups() == (0, 9)
    found = again.recovered(0)
    assert found == Recovered(
        HardState(2, NodeId("a")), 0, (*entries(1, 1), *entries(2, 4, term=3)), 2, 4
    )
    assert indexes(again.recovered(9)) == [1]
    assert again.recovered(0).entries == ()
    again.close()


def test_a_batch_larger_than_a_segment_gets_one_of_its_own() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    store.write([GroupWrite(0, entries=entries(1, 3, size=40_000))])
    store.write([GroupWrite(0, entries=entries(4, 4))])
    assert indexes(open_store(disk.crash(random.Random(1)), seed=2).recovered(0)) == [1, 2, 3, 4]


def test_compaction_removes_whole_segments_and_keeps_the_small_records() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    store.write([GroupWrite(0, hard_state=HardState(1, NodeId("a")), commit=1, epoch=2)])
    for first in range(1, 401, 10):
        store.write([GroupWrite(0, entries=entries(first, first + 9))])
    before = len(disk.list())
    store.compact(0, 350)
    assert len(disk.list()) < before / 2
    found = open_store(disk.crash(random.Random(1)), seed=2).recovered(0)
    assert indexes(found) == list(range(351, 401))
    assert found.base == 350
    assert (found.hard_state, found.commit, found.epoch) == (HardState(1, NodeId("a")), 1, 2)


def test_compaction_of_one_group_never_cuts_a_neighbour() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    store.write([GroupWrite(7, hard_state=HardState(3, None), entries=entries(1, 3))])
    for first in range(1, 401, 10):
        store.write([GroupWrite(0, entries=entries(first, first + 9))])
    store.compact(0, 400)
    again = open_store(disk.crash(random.Random(1)), seed=2)
    assert indexes(again.recovered(7)) == [1, 2, 3]
    again.compact(7, 3)
    last = open_store(disk, seed=3)
    assert last.recovered(7).hard_state == HardState(3, None)
    assert indexes(last.recovered(0)) == []


def test_a_second_compaction_restarts_where_the_first_left_a_gap_behind() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    for first in range(1, 1001, 10):
        store.write([GroupWrite(0, entries=entries(first, first + 9))])
        if first % 50 == 1 and first > 100:
            store.compact(0, first - 77)
        found = open_store(disk.crash(random.Random(first)), seed=first).recovered(0)
        assert indexes(found) == list(range(found.base + 1, first + 10))


def test_a_reset_forgets_the_entries_before_it() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    store.write([GroupWrite(0, entries=entries(1, 5))])
    store.write([GroupWrite(0, reset_to=50, entries=entries(51, 52, term=4))])
    found = open_store(disk, seed=2).recovered(0)
    assert (found.base, indexes(found)) == (50, [51, 52])


def test_a_failed_fsync_is_the_end_of_the_store() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    disk.fail_fsync = True
    with pytest.raises(DiskError):
        store.write([GroupWrite(0, entries=entries(1, 1))])
    disk.fail_fsync = False
    with pytest.raises(DiskError, match="failed before"):
        store.write([GroupWrite(0, entries=entries(1, 1))])


def test_a_full_disk_gives_up_the_ballast_then_refuses_then_goes_on() -> None:
    disk = MemoryDisk(capacity_bytes=SMALL.ballast_bytes + SMALL.segment_bytes + 4096)
    store = open_store(disk)
    assert BALLAST in disk.list()
    written = 0
    with pytest.raises(NoSpace):
        while True:
            store.write([GroupWrite(0, entries=entries(written + 1, written + 10))])
            written += 10
    assert store.low_space
    assert BALLAST not in disk.list()
    assert not store.restore_space()
    disk.capacity_bytes = 1 << 30
    store.write([GroupWrite(0, entries=entries(written + 1, written + 10))])
    assert store.restore_space()
    assert indexes(open_store(disk.crash(random.Random(1)), seed=2).recovered(0)) == list(range(1, written + 11))


def test_a_missing_segment_is_damage() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    for first in range(1, 401, 10):
        store.write([GroupWrite(0, entries=entries(first, first + 9))])
    disk.remove(disk.list()[1])
    with pytest.raises(DamagedError, match="missing"):
        open_store(disk, seed=2)


def test_rot_at_the_end_of_a_segment_that_has_a_successor_is_damage() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    store.write([GroupWrite(0, entries=entries(1, 1, size=10_000))])
    store.write([GroupWrite(0, entries=entries(2, 2, size=10_000))])
    first = disk.list()[0]
    disk.flip(first, 5000)
    disk.flip(first, disk.names[first].content.rindex(b"rec") + 10)  # its mark, too
    with pytest.raises(DamagedError, match="does not follow"):
        open_store(disk, seed=2)


def test_rot_in_the_very_last_unit_is_damage_once_its_mark_reached_the_disk() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    store.write([GroupWrite(0, entries=entries(1, 1))])
    store.write([GroupWrite(0, entries=entries(2, 3))])
    quiet = disk.crash(random.Random(1), keep_all=True)
    name = quiet.list()[0]
    quiet.flip(name, quiet.names[name].content.rindex(b"rec") - 20)  # in the last entry, before the mark
    with pytest.raises(DamagedError, match="written later"):
        open_store(quiet, seed=2)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_of_a_synced_log_is_told_or_harmless(seed: int) -> None:
    rng = random.Random(seed)
    disk = MemoryDisk()
    store = open_store(disk)
    for first in range(1, 101, 10):
        store.write([GroupWrite(0, entries=entries(first, first + 9, size=rng.randint(0, 60)))])
    quiet = disk.crash(rng, keep_all=True)
    name = rng.choice([name for name in quiet.list() if name.endswith(".log")])
    quiet.flip(name, rng.randrange(len(quiet.names[name].content)), 1 << rng.randrange(8))
    try:
        found = open_store(quiet, seed=2).recovered(0)
    except DamagedError:
        return
    assert indexes(found) == list(range(1, 101))


TINY = LogOptions(segment_bytes=8 * 1024, ballast_bytes=8 * 1024)


def run_script(disk: MemoryDisk, told: list[int]) -> None:
    """A life of a log; `told` grows with every index that was acknowledged and shrinks with a truncation."""
    store = open_store(disk, options=TINY)
    last = 0
    for step in range(24):
        new = entries(last + 1, last + 9, step + 1, 80)
        write = GroupWrite(0, hard_state=HardState(step, NodeId("a")), entries=new)
        store.write([write, GroupWrite(5, hard_state=HardState(step, None))])
        last += 9
        told[:] = [last, step]
        if step == 4:
            store.write([GroupWrite(0, truncate_from=last - 2, entries=entries(last - 2, last, 99))])
        if step % 3 == 2:
            store.compact(0, last - 12)
    store.close()


def count_of_operations() -> int:
    disk = MemoryDisk()
    run_script(disk, [])
    return disk.operations


@pytest.mark.parametrize("seed", range(3))
def test_power_cut_at_every_operation_loses_nothing_that_was_acknowledged(seed: int) -> None:
    rng = random.Random(seed)
    total = count_of_operations()
    assert total > 120
    for stop_at in range(1, total + 1):
        disk = MemoryDisk()
        disk.stop_at = stop_at
        told: list[int] = [0, 0]
        with pytest.raises(PowerCut):
            run_script(disk, told)
        restart_until_up(disk.crash(rng), told, rng)


def restart_until_up(disk: MemoryDisk, told: list[int], rng: random.Random) -> None:
    """Open, with the power cut again in the middle of that once, and look at what is there."""
    again = disk.crash(rng, keep_all=True)
    again.stop_at = rng.randint(1, 6)
    try:
        open_store(again, seed=rng.randrange(1 << 30), options=TINY)
    except PowerCut:
        again = again.crash(rng)
    again.stop_at = -1
    store = open_store(again, seed=rng.randrange(1 << 30), options=TINY)
    found = store.recovered(0)
    last = found.entries[-1].index if found.entries else found.base
    assert last >= told[0]
    assert indexes(found) == list(range(found.base + 1, last + 1))
    assert found.hard_state.term >= told[1]
    assert store.recovered(5).hard_state.term >= told[1]
    assert all(entry.payload.startswith(b"%d:%d:" % (entry.index, entry.term)) for entry in found.entries)
    store.write([GroupWrite(0, entries=entries(last + 1, last + 1))])
