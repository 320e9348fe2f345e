"""The simulator's `consensus.disk.Disk`: a process's open files on a platter that outlives it, and their faults.

Faults are set on the `DiskFaults` of the machine, not of the process: a full disk is full for the next process too.
Every call that changes something is an *effect*; a fuse counts them down and ends the process there, half of a write
done if it was one, which walks every crash point of recovery, append and compaction (fault P1).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from consensus.disk import File, NoSpace
from mesh.errors import DiskError, MissingError
from tests.sim.platter import Inode, Platter


class ProcessDied(BaseException):
    """The process ends here and now, as by kill -9; no code of the product may catch it."""


@dataclass(slots=True)
class DiskFaults:
    """What is wrong with a machine's disk at present."""

    fsyncs_failing: int = 0  # so many of the next fsyncs fail, each once
    lying: bool = False  # fsync says yes and does nothing
    capacity_bytes: int = 1 << 40
    fuse: int = 0  # so many effects until the process dies; 0: it does not


@dataclass(slots=True)
class DiskCounts:
    effects: int = 0
    fsyncs: int = 0
    fsyncs_failed: int = 0
    no_space: int = 0
    died_at_effect: int = 0


class SimDisk:
    """One process's view of one folder of a platter; its descriptors end with it.

    Args:
        folder: Ends with a slash; the files' paths on the platter begin with it.
    """

    def __init__(
        self, platter: Platter, faults: DiskFaults, rng: random.Random, counts: DiskCounts, folder: str = ""
    ) -> None:
        self._folder = folder
        self._platter = platter
        self._faults = faults
        self._rng = rng
        self._counts = counts
        self._open: dict[File, Inode] = {}
        self._next = 3

    def create(self, name: str) -> File:
        self._effect()
        if self._folder + name in self._platter.names:
            raise DiskError(f"cannot create {name}", why="it exists")
        inode = Inode()
        self._platter.link(self._folder + name, inode)
        return self._descriptor(inode)

    def open(self, name: str) -> File:
        inode = self._platter.names.get(self._folder + name)
        if inode is None:
            raise MissingError(f"no file {name}")
        return self._descriptor(inode)

    def close(self, file: File) -> None:
        del self._open[file]

    def size(self, file: File) -> int:
        return self._open[file].size

    def read(self, file: File, offset: int, size_bytes: int) -> bytes:
        return self._open[file].read(offset, size_bytes)

    def pwrite(self, file: File, offset: int, payload: bytes) -> None:
        inode = self._open[file]
        self._need(offset + len(payload) - inode.size)
        if self._effect_is_last():
            inode.write(offset, bytes(payload[: self._rng.randint(0, len(payload))]))
            self._die()
        inode.write(offset, bytes(payload))

    def fsync(self, file: File) -> None:
        self._effect()
        self._counts.fsyncs += 1
        inode = self._open[file]
        if self._faults.fsyncs_failing and not self._faults.lying:  # a liar never says that it failed
            self._faults.fsyncs_failing -= 1
            self._counts.fsyncs_failed += 1
            inode.forget_pending(self._rng)
            raise DiskError("cannot make a write durable", why="Input/output error")
        if not self._faults.lying:
            inode.sync()

    def preallocate(self, file: File, size_bytes: int) -> None:
        self._need(size_bytes - self._open[file].size)
        self._effect()
        self._open[file].extend(size_bytes)

    def rename(self, old: str, new: str) -> None:
        self._effect()
        inode = self._platter.names.get(self._folder + old)
        if inode is None:
            raise DiskError(f"cannot rename {old}", why="No such file or directory")
        self._platter.rename(self._folder + old, self._folder + new)

    def remove(self, name: str) -> None:
        self._effect()
        if self._folder + name in self._platter.names:
            self._platter.link(self._folder + name, None)

    def list(self) -> tuple[str, ...]:
        start = len(self._folder)
        names = [path[start:] for path in self._platter.names if path.startswith(self._folder)]
        return tuple(sorted(name for name in names if "/" not in name))

    def sync_folder(self) -> None:
        self._effect()
        self._counts.fsyncs += 1
        if self._faults.fsyncs_failing and not self._faults.lying:
            self._faults.fsyncs_failing -= 1
            self._counts.fsyncs_failed += 1
            raise DiskError("cannot make names durable", why="Input/output error")
        if not self._faults.lying:
            self._platter.sync_names(self._folder)

    def free_bytes(self) -> int:
        return max(0, self._faults.capacity_bytes - self._platter.used_bytes())

    def _descriptor(self, inode: Inode) -> File:
        file = File(self._next)
        self._next += 1
        self._open[file] = inode
        return file

    def _need(self, more_bytes: int) -> None:
        if more_bytes > 0 and more_bytes > self.free_bytes():
            self._counts.no_space += 1
            raise NoSpace("the disk is full", why="No space left on device")

    def _effect(self) -> None:
        if self._effect_is_last():
            self._die()

    def _effect_is_last(self) -> bool:
        self._counts.effects += 1
        if self._faults.fuse:
            self._faults.fuse -= 1
            return self._faults.fuse == 0
        return False

    def _die(self) -> None:
        self._counts.died_at_effect += 1
        raise ProcessDied
