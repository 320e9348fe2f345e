"""The seam between what must be durable and the disk it lies on.

`Disk` is one flat folder of files, synchronous: the daemon calls it from its writer thread, the simulator from its
event heap. What a failed call means is part of the contract, because guessing it is what loses data (faults D2, D7):

- `DiskError`: a write, a sync or a change of the folder failed. What the medium holds is unknown, and a later success
  proves nothing (the kernel marks pages clean after it reported their loss), so the process ends and reads anew.
- `NoSpace`: the file system is full. Nothing that was synced before is in doubt; the call had no effect that counts.

There is deliberately no truncate and no append: segment files are preallocated, and a write says where it goes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NewType, Protocol

from mesh.errors import DiskError, ExhaustedError, MissingError

AFTER_A_FAILURE = "the node stopped and lost nothing that it promised: look after this disk, then start it again"
"""What is on the medium is unknown, and a start finds out: it reads everything anew."""

File = NewType("File", int)
"""An open file of one disk; meaningless to another."""

FILE_MODE = 0o600
_FAILURES = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS})
ZEROES = bytes(256 * 1024)


class NoSpace(ExhaustedError):
    """The file system is full; what was durable before still is."""

    code = "limit.disk"


class Disk(Protocol):
    """One folder. Names are plain file names; nothing here makes or enters another folder."""

    def create(self, name: str) -> File:
        """A new, empty file; one of that name must not exist. Durable only after `fsync` and `sync_folder`."""

    def open(self, name: str) -> File:
        """An existing file, for reading and writing.

        Raises:
            MissingError: There is none of that name.
        """

    def close(self, file: File) -> None:
        """Give the descriptor back; syncs nothing."""

    def size(self, file: File) -> int:
        """Its length in bytes."""

    def read(self, file: File, offset: int, size_bytes: int) -> bytes:
        """The bytes there; fewer only where the file ends."""

    def pwrite(self, file: File, offset: int, payload: bytes) -> None:
        """Write all of it. After a crash without `fsync` any part of it, in any order, may be there."""

    def fsync(self, file: File) -> None:
        """Return when everything written to the file, and its length, is durable. Never raises `NoSpace`."""

    def preallocate(self, file: File, size_bytes: int) -> None:
        """Fill a new file with zeroes up to this length, so that later writes need no space and no metadata."""

    def rename(self, old: str, new: str) -> None:
        """Replace `new` by `old` atomically. Durable only after `sync_folder`."""

    def remove(self, name: str) -> None:
        """Remove it, if it is there. Durable only after `sync_folder`."""

    def list(self) -> tuple[str, ...]:
        """The names of all files, sorted."""

    def sync_folder(self) -> None:
        """Return when all names made, changed and removed are durable (fault D10)."""

    def free_bytes(self) -> int:
        """What may still be written here."""


class RealDisk:
    """A folder of the host's file system.

    Args:
        folder: Made if it is not there (its own name is synced in its parent).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_directory(folder.parent)
        except OSError as error:
            raise disk_failure(error, "make the folder", str(folder)) from error

    def create(self, name: str) -> File:
        try:
            descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise disk_failure(error, "create", name) from error
        return File(descriptor)

    def open(self, name: str) -> File:
        try:
            return File(os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        except FileNotFoundError as error:
            raise MissingError(f"no file {name}", why=str(self._folder)) from error
        except OSError as error:
            raise disk_failure(error, "open", name) from error

    def close(self, file: File) -> None:
        os.close(file)

    def size(self, file: File) -> int:
        return os.fstat(file).st_size

    def read(self, file: File, offset: int, size_bytes: int) -> bytes:
        parts: list[bytes] = []
        while size_bytes > 0:
            try:
                part = os.pread(file, size_bytes, offset)
            except OSError as error:
                raise disk_failure(error, "read", str(self._folder)) from error
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size_bytes -= len(part)
        return b"".join(parts)

    def pwrite(self, file: File, offset: int, payload: bytes) -> None:
        rest = memoryview(payload)
        while rest:
            try:
                written = os.pwrite(file, rest, offset)
            except OSError as error:
                raise disk_failure(error, "write", str(self._folder)) from error
            rest = rest[written:]
            offset += written

    def fsync(self, file: File) -> None:
        # fdatasync also makes a changed length durable; what it leaves out are times.
        try:
            os.fdatasync(file)
        except OSError as error:
            what = f"cannot make a write durable in {self._folder}"
            raise DiskError(what, why=_reason(error), hint=AFTER_A_FAILURE) from error

    def preallocate(self, file: File, size_bytes: int) -> None:
        # Written, not fallocated: an unwritten extent would cost a metadata change, and may cost space, at each write.
        offset = self.size(file)
        while offset < size_bytes:
            count = min(len(ZEROES), size_bytes - offset)
            self.pwrite(file, offset, ZEROES[:count])
            offset += count

    def rename(self, old: str, new: str) -> None:
        try:
            (self._folder / old).replace(self._folder / new)
        except OSError as error:
            raise disk_failure(error, "rename", old) from error

    def remove(self, name: str) -> None:
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise disk_failure(error, "remove", name) from error

    def list(self) -> tuple[str, ...]:
        try:
            with os.scandir(self._folder) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False)))
        except OSError as error:
            raise disk_failure(error, "list", str(self._folder)) from error

    def sync_folder(self) -> None:
        try:
            _sync_directory(self._folder)
        except OSError as error:
            what = f"cannot make names durable in {self._folder}"
            raise DiskError(what, why=_reason(error), hint=AFTER_A_FAILURE) from error

    def free_bytes(self) -> int:
        try:
            found = os.statvfs(self._folder)
        except OSError as error:
            raise disk_failure(error, "look at", str(self._folder)) from error
        return found.f_bavail * found.f_frsize


def replace_file(disk: Disk, name: str, payload: bytes) -> None:
    """Put these bytes under this name: all of them or what was there before, whatever happens meanwhile.

    Temporary file, fsync, rename, fsync of the folder: the one helper for it (fault D10).
    """
    temporary = name + ".new"
    disk.remove(temporary)
    file = disk.create(temporary)
    try:
        disk.pwrite(file, 0, payload)
        disk.fsync(file)
    finally:
        disk.close(file)
    disk.rename(temporary, name)
    disk.sync_folder()


def read_file(disk: Disk, name: str) -> bytes:
    """All of a file's bytes."""
    file = disk.open(name)
    try:
        return disk.read(file, 0, disk.size(file))
    finally:
        disk.close(file)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def is_disk_failure(error: BaseException) -> bool:
    """Whether this is the host's word that a disk failed, is full or takes no writes; any call may see it first."""
    return isinstance(error, OSError) and error.errno in _FAILURES


def disk_failure(error: OSError, doing: str, name: str) -> DiskError | NoSpace:
    """What a failed call of the file system means (see above), as an error that a person can read."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space; writes go on by themselves"
        return NoSpace("the disk is full", why=f"cannot {doing} {name}", hint=hint)
    return DiskError(f"cannot {doing} {name}", why=_reason(error), hint=AFTER_A_FAILURE)
