"""A disk in memory that forgets, tears and reorders what was not synced, and fails when told to.

The simulator has a disk of its own with many more faults; this one is as small as tests of the log need.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from consensus.disk import File, NoSpace
from mesh.errors import DiskError, MissingError

SECTOR = 512


class PowerCut(BaseException):
    """The machine stops here. Not an Exception: nothing may catch it."""


@dataclass
class _Inode:
    durable: bytearray = field(default_factory=bytearray)
    content: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)


class MemoryDisk:
    """A folder. `crash()` gives the folder that a restart finds."""

    def __init__(self, *, capacity_bytes: int = 1 << 40) -> None:
        self.names: dict[str, _Inode] = {}
        self.durable_names: dict[str, _Inode] = {}
        self.unsynced_names: list[dict[str, _Inode]] = []
        self.capacity_bytes = capacity_bytes
        self.operations = 0
        self.stop_at = -1  # the power is cut in the middle of this operation
        self.fail_fsync = False
        self._open: dict[int, _Inode] = {}
        self._next = 3

    def _step(self) -> bool:
        self.operations += 1
        return self.operations == self.stop_at

    def create(self, name: str) -> File:
        assert name not in self.names
        if self._step():
            raise PowerCut
        self.names[name] = _Inode()
        self._name_changed()
        return self.open(name)

    def open(self, name: str) -> File:
        if name not in self.names:
            raise MissingError(f"no file {name}")
        self._next += 1
        self._open[self._next] = self.names[name]
        return File(self._next)

    def close(self, file: File) -> None:
        del self._open[file]

    def size(self, file: File) -> int:
        return len(self._open[file].content)

    def read(self, file: File, offset: int, size_bytes: int) -> bytes:
        return bytes(self._open[file].content[offset : offset + size_bytes])

    def pwrite(self, file: File, offset: int, payload: bytes) -> None:
        inode = self._open[file]
        stop = self._step()
        if self._used() + max(0, offset + len(payload) - len(inode.content)) > self.capacity_bytes:
            raise NoSpace("the disk is full")
        inode.unsynced.append((offset, payload))
        _put(inode.content, offset, payload)
        if stop:
            raise PowerCut

    def fsync(self, file: File) -> None:
        if self._step():
            raise PowerCut
        if self.fail_fsync:
            raise DiskError("cannot make a write durable", why="Input/output error")
        inode = self._open[file]
        inode.durable = bytearray(inode.content)
        inode.unsynced.clear()

    def preallocate(self, file: File, size_bytes: int) -> None:
        missing = size_bytes - self.size(file)
        self.pwrite(file, self.size(file), bytes(missing))

    def rename(self, old: str, new: str) -> None:
        if self._step():
            raise PowerCut
        self.names[new] = self.names.pop(old)
        self._name_changed()

    def remove(self, name: str) -> None:
        if name in self.names:
            if self._step():
                raise PowerCut
            del self.names[name]
            self._name_changed()

    def list(self) -> tuple[str, ...]:
        return tuple(sorted(self.names))

    def sync_folder(self) -> None:
        if self._step():
            raise PowerCut
        self.durable_names = dict(self.names)
        self.unsynced_names.clear()

    def free_bytes(self) -> int:
        return self.capacity_bytes - self._used()

    def crash(self, rng: random.Random, *, keep_all: bool = False) -> MemoryDisk:
        """What is there after the power came back: synced things, and any part of the others."""
        after = MemoryDisk(capacity_bytes=self.capacity_bytes)
        kept = rng.randint(0, len(self.unsynced_names))
        names = [self.durable_names, *self.unsynced_names][len(self.unsynced_names) if keep_all else kept]
        for name, inode in names.items():
            content = bytearray(inode.durable)
            for offset, payload in inode.unsynced:
                if keep_all:
                    _put(content, offset, payload)
                else:
                    _put_some_sectors(content, offset, payload, rng)
            after.names[name] = _Inode(bytearray(content), bytearray(content))
        after.durable_names = dict(after.names)
        return after

    def flip(self, name: str, offset: int, mask: int = 0x10) -> None:
        """Rot: one bit changes by itself."""
        self.names[name].content[offset] ^= mask
        self.names[name].durable[offset] ^= mask

    def _name_changed(self) -> None:
        self.unsynced_names.append(dict(self.names))

    def _used(self) -> int:
        return sum(len(inode.content) for inode in self.names.values())


def _put(content: bytearray, offset: int, payload: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(payload)] = payload


def _put_some_sectors(content: bytearray, offset: int, payload: bytes, rng: random.Random) -> None:
    fate = rng.random()
    start = 0
    while start < len(payload):
        end = min(len(payload), ((offset + start) // SECTOR + 1) * SECTOR - offset)
        if fate < 0.25 or (fate < 0.75 and rng.random() < 0.5):
            _put(content, offset + start, payload[start:end])
        start = end
