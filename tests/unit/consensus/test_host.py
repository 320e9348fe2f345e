"""The host on a disk that fails, that is full, and that is slow to tell."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from consensus.group_effects import GroupConfig
from consensus.ledger import Ledger
from consensus.ledger_entries import CreateMesh, Noop
from consensus.log_store import LogOptions, LogStore
from consensus.records import BootMark, MeshRecord
from mesh.errors import DiskError, UnavailableError
from tests.unit.consensus.memory_disk import MemoryDisk
from tests.unit.consensus.test_ledger import LedgerNode
from tests.unit.mesh.nodes import MESH, make_nodes, running

OPTIONS = LogOptions(segment_bytes=16 * 1024, ballast_bytes=16 * 1024)


def soon(seconds: float = 20.0) -> float:
    return trio.current_time() + seconds


@asynccontextmanager
async def lone_ledger(folder: Path, disk: MemoryDisk) -> AsyncIterator[Ledger]:
    """A founder alone, whose log is on this disk."""
    (node,) = make_nodes(folder, 1)
    async with running([node]) as nursery:
        rng = random.Random(1)
        store = LogStore.open(disk, b"k" * 32, random_bytes=rng.randbytes, options=OPTIONS)
        boot = BootMark(store.store_id, 1, b"nonce123")
        ledger = Ledger(
            node.id,
            MESH,
            boot,
            log=store,
            snapshots=MemoryDisk(),
            key=b"s" * 32,
            founder=True,
            peers=node.peers,
            server=node.server,
            rng=rng,
            wall_ms=lambda: int(time.time() * 1000),
            config=GroupConfig(snapshot_entries=10_000),
        )
        await nursery.start(ledger.run)
        founder = LedgerNode(node, folder)
        founder.boot = boot
        created = CreateMesh(MeshRecord(MESH, 1, 1, 1), founder.record(), ())
        await ledger.create_mesh(created, deadline=soon())
        yield ledger


async def test_a_failed_sync_ends_the_process_with_what_failed(tmp_path: Path) -> None:
    disk = MemoryDisk()
    with pytest.raises(ExceptionGroup) as caught:
        async with lone_ledger(tmp_path, disk) as ledger:
            disk.fail_fsync = True
            await ledger.propose(Noop(), deadline=soon(5))
    assert caught.group_contains(DiskError)


async def test_a_full_disk_refuses_writes_answers_reads_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = MemoryDisk(capacity_bytes=100 * 1024)
    async with lone_ledger(tmp_path, disk) as ledger:
        with pytest.raises(UnavailableError, match="disk is full"):
            while True:
                await ledger.propose(Noop(), deadline=soon(1))
        assert ledger.statistics().read_only
        assert len(ledger.state.members) == 1
        disk.capacity_bytes = 1 << 30
        async with ledger.watch() as changes:
            with trio.fail_after(20):
                while ledger.statistics().read_only:
                    with trio.move_on_after(0.1):
                        await changes.receive()
        await ledger.propose(Noop(), deadline=soon())


async def test_many_writers_share_few_syncs(tmp_path: Path) -> None:
    disk = MemoryDisk()
    async with lone_ledger(tmp_path, disk) as ledger:
        before = ledger.statistics()
        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(propose_noop, ledger)
        after = ledger.statistics()
        assert after.batches - before.batches < 100


async def propose_noop(ledger: Ledger) -> None:
    await ledger.propose(Noop(), deadline=soon())
