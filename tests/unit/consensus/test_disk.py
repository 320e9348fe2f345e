"""The disk seam: one suite for the real folder and the one in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from consensus.disk import Disk, NoSpace, RealDisk, is_disk_failure, read_file, replace_file
from mesh.errors import DiskError, MissingError
from tests.unit.consensus.memory_disk import MemoryDisk


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path / "folder") if request.param == "real" else MemoryDisk()


def test_bytes_written_somewhere_are_read_there(disk: Disk) -> None:
    file = disk.create("one")
    disk.preallocate(file, 10_000)
    disk.pwrite(file, 5_000, b"here")
    disk.fsync(file)
    assert disk.size(file) == 10_000
    assert disk.read(file, 4_999, 6) == b"\0here\0"
    assert disk.read(file, 9_998, 10) == b"\0\0"
    disk.close(file)


def test_a_file_is_replaced_as_a_whole(disk: Disk) -> None:
    replace_file(disk, "one", b"first")
    replace_file(disk, "one", b"second")
    assert read_file(disk, "one") == b"second"
    assert disk.list() == ("one",)


def test_what_is_not_there_is_missing_and_may_be_removed(disk: Disk) -> None:
    with pytest.raises(MissingError):
        disk.open("none")
    disk.remove("none")
    assert disk.list() == ()


def test_there_is_some_room(disk: Disk) -> None:
    assert disk.free_bytes() > 0


def failing(number: int) -> object:
    def fail(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_full_disk_is_told_from_a_failing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    file = disk.create("one")
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    with pytest.raises(NoSpace):
        disk.pwrite(file, 0, b"x")
    monkeypatch.setattr(os, "pwrite", failing(errno.EIO))
    with pytest.raises(DiskError):
        disk.pwrite(file, 0, b"x")


def test_a_sync_that_finds_the_disk_full_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    file = disk.create("one")
    monkeypatch.setattr(os, "fdatasync", failing(errno.ENOSPC))
    with pytest.raises(DiskError):
        disk.fsync(file)


def test_only_the_owner_can_read_what_is_written(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "folder")
    disk.close(disk.create("one"))
    assert (tmp_path / "folder").stat().st_mode & 0o077 == 0
    assert (tmp_path / "folder" / "one").stat().st_mode & 0o077 == 0


def test_a_failure_of_the_disk_is_told_from_other_errors_of_the_host() -> None:
    for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        assert is_disk_failure(OSError(code, "x"))
    assert not is_disk_failure(OSError(errno.ECONNRESET, "x"))
    assert not is_disk_failure(OSError("no number"))
    assert not is_disk_failure(DiskError("told already"))
