"""The counter of starts."""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from pathlib import Path

import pytest

from consensus.boot import BOOT_FILE, FOLLOWS_MAX, mark_of, next_boot, next_start, note_registered
from consensus.disk import RealDisk, replace_file
from mesh.errors import DamagedError
from mesh.names import NodeId
from tests.unit.consensus.memory_disk import MemoryDisk, PowerCut

STORE = b"s" * 16


def test_each_start_has_a_higher_number_and_another_nonce(tmp_path: Path) -> None:
    rng = random.Random(1)
    boots = [next_boot(RealDisk(tmp_path), STORE, rng.randbytes) for _ in range(3)]
    assert [boot.counter for boot in boots] == [1, 2, 3]
    assert len({boot.nonce for boot in boots}) == 3
    mark = mark_of(NodeId("a"), boots[0])
    assert (mark.store_id, mark.boot_counter, mark.boot_nonce) == (STORE, 1, boots[0].nonce)


def test_a_damaged_counter_is_told_and_not_begun_anew() -> None:
    disk = MemoryDisk()
    next_boot(disk, STORE, random.Random(1).randbytes)
    disk.flip(BOOT_FILE, 9)
    with pytest.raises(DamagedError, match="counter of starts"):
        next_boot(disk, STORE, random.Random(1).randbytes)


def test_a_number_that_was_given_is_never_given_again_whatever_cuts_the_power() -> None:
    rng = random.Random(1)
    for stop_at in range(1, 12):
        disk = MemoryDisk()
        given = [next_boot(disk, STORE, rng.randbytes).counter]
        disk.operations, disk.stop_at = 0, stop_at
        with contextlib.suppress(PowerCut):
            given.append(next_boot(disk, STORE, rng.randbytes).counter)
        assert next_boot(disk.crash(rng), STORE, rng.randbytes).counter > given[-1]


HERE, ELSEWHERE = 7, 8


def test_a_start_follows_on_the_one_that_was_registered_and_on_those_that_may_have_been() -> None:
    disk, rng = MemoryDisk(), random.Random(1)
    first = next_start(disk, STORE, rng.randbytes, place=HERE)
    assert first.follows == ()
    note_registered(disk, first.boot, place=HERE)
    starts = [next_start(disk, STORE, rng.randbytes, place=HERE) for _ in range(2 * FOLLOWS_MAX)]
    assert starts[0].follows == (first.boot,)
    assert starts[2].follows == (first.boot, starts[0].boot, starts[1].boot)
    assert starts[-1].follows[0] == first.boot, "what was surely registered is never forgotten"
    assert starts[-1].follows[-1] == starts[-2].boot
    assert len(starts[-1].follows) == FOLLOWS_MAX
    note_registered(disk, starts[-1].boot, place=HERE)
    assert next_start(disk, STORE, rng.randbytes, place=HERE).follows == (starts[-1].boot,)


def test_a_copied_home_is_a_copy_until_it_is_registered_where_it_lies() -> None:
    disk, rng = MemoryDisk(), random.Random(1)
    assert not next_start(disk, STORE, rng.randbytes, place=HERE).copied
    assert next_start(disk, STORE, rng.randbytes, place=ELSEWHERE).copied
    taken_back = next_start(disk, STORE, rng.randbytes, place=ELSEWHERE)
    assert taken_back.copied
    note_registered(disk, taken_back.boot, place=ELSEWHERE)
    assert not next_start(disk, STORE, rng.randbytes, place=ELSEWHERE).copied
    assert next_start(disk, STORE, rng.randbytes, place=HERE).copied


def test_a_counter_of_an_older_version_is_read_and_its_home_belongs_where_it_lies() -> None:
    disk, rng = MemoryDisk(), random.Random(1)
    packed = struct.pack("<8sQ", b"fc-boot1", 4)
    replace_file(disk, BOOT_FILE, packed + struct.pack("<I", zlib.crc32(packed)))
    start = next_start(disk, STORE, rng.randbytes, place=HERE)
    assert (start.boot.counter, start.follows, start.copied) == (5, (), False)
    assert not next_start(disk, STORE, rng.randbytes, place=HERE).copied
