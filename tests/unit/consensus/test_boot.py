"""The counter of starts."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from consensus.boot import BOOT_FILE, mark_of, next_boot
from consensus.disk import RealDisk
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
