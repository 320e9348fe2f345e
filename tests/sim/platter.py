"""What a disk really holds, and what power loss leaves of it: the model under `tests.sim.disk`.

Every file has two contents: `cached`, which reads return, and `durable`, which survives. A write goes to the cache
and into a list; fsync moves the list to the durable side, in order. When the power goes, each write of the list is
kept, lost, or torn at a sector's edge, each by itself, so any subset in any order may survive. Names are the same
story: creating, renaming and removing are kept from some point of their list on only if the folder was synced.

Source: "All File Systems Are Not Created Equal" (OSDI'14) for names and order; "Can Applications Recover from fsync
Failures?" (ATC'20) for what a failed fsync leaves (pages marked clean, their writes gone without a second error).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""


@dataclass(slots=True)
class Inode:
    """One file's bytes. Zeros beyond the stored end, up to `size`, take no memory."""

    cached: bytearray = field(default_factory=bytearray)
    size: int = 0
    durable: bytearray = field(default_factory=bytearray)
    durable_size: int = 0
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # since the last honest fsync

    def read(self, offset: int, length: int) -> bytes:
        """At most so many bytes; short at the end of the file."""
        length = max(0, min(length, self.size - offset))
        found = bytes(self.cached[offset : offset + length])
        return found + bytes(length - len(found))

    def write(self, offset: int, payload: bytes) -> None:
        """Into the cache; durable only with a later `sync`."""
        _put(self.cached, offset, payload)
        self.size = max(self.size, offset + len(payload))
        self.pending.append((offset, payload))

    def extend(self, size: int) -> None:
        """Reserve zeros up to this size."""
        self.size = max(self.size, size)

    def sync(self) -> None:
        """All writes so far reach the disk."""
        for offset, payload in self.pending:
            _put(self.durable, offset, payload)
        self.pending.clear()
        self.durable_size = self.size

    def forget_pending(self, rng: random.Random) -> None:
        """A failed fsync: some pages made it, the others are marked clean and will never be written."""
        for offset, payload in self.pending:
            if rng.random() < 0.5:
                _put(self.durable, offset, payload)
        self.pending.clear()
        self.durable_size = self.size

    def power_off(self, rng: random.Random, damage: float) -> int:
        """Keep what was synced and a random part of the rest; returns how many writes were lost or torn."""
        hurt = 0
        for offset, payload in self.pending:
            if rng.random() >= damage:
                _put(self.durable, offset, payload)
                continue
            hurt += 1
            for start in _sectors(offset, len(payload)):
                if rng.random() < 0.5:
                    piece = payload[max(0, start - offset) : start - offset + SECTOR_BYTES]
                    _put(self.durable, max(offset, start), piece)
        self.pending.clear()
        if self.durable_size < self.size and rng.random() < 0.5:
            self.durable_size = self.size
        self.durable_size = max(self.durable_size, len(self.durable))
        self.cached = bytearray(self.durable)
        self.size = self.durable_size
        return hurt

    def flip(self, offset: int, bit: int) -> None:
        """Rot: one bit of one byte is not what was written, on the disk and in what reads return."""
        for content in (self.cached, self.durable):
            if offset < len(content):
                content[offset] ^= 1 << bit


class Platter:
    """One node's home: its files by path; survives the node's processes, not always their wishes."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._changes: list[tuple[tuple[str, Inode | None], ...]] = []  # each is atomic

    def link(self, name: str, inode: Inode | None) -> None:
        """Have the name stand for this file from now on, or for none."""
        if inode is None:
            self.names.pop(name, None)
        else:
            self.names[name] = inode
        self._changes.append(((name, inode),))

    def rename(self, old: str, new: str) -> None:
        """Both names change in one step, now and after power loss."""
        inode = self.names.pop(old)
        self.names[new] = inode
        self._changes.append(((old, None), (new, inode)))

    def sync_names(self, folder: str = "") -> None:
        """All changes of names in this folder so far reach the disk; `folder` ends with a slash, "" is all."""
        inside = [change for change in self._changes if change[0][0].startswith(folder)]
        self._changes = [change for change in self._changes if not change[0][0].startswith(folder)]
        self._keep_names(inside)

    def sync_all(self) -> None:
        """Everything reaches the disk, names and contents."""
        self.sync_names()
        for inode in self.names.values():
            inode.sync()

    def power_off(self, rng: random.Random, damage: float) -> int:
        """The power goes; returns how many unsynced writes and changes of names did not survive whole."""
        kept = rng.randint(0, len(self._changes))
        hurt = len(self._changes) - kept
        self._keep_names(self._changes[:kept])
        self._changes.clear()
        self.names = dict(self._durable_names)
        for name in sorted(self.names):
            hurt += self.names[name].power_off(rng, damage)
        return hurt

    def used_bytes(self) -> int:
        """What the files take, reserved zeros included."""
        return sum(inode.size for inode in self.names.values())

    def unsynced_writes(self) -> int:
        """How many writes a power loss would put at risk now."""
        return sum(len(inode.pending) for inode in self.names.values())

    def copy(self) -> Platter:
        """The same contents on another disk, all of it synced: a copied home, a snapshot of a virtual machine."""
        other = Platter()
        for name, inode in self.names.items():
            twin = Inode(bytearray(inode.cached), inode.size)
            twin.durable, twin.durable_size = bytearray(inode.cached), inode.size
            other.names[name] = twin
        other._durable_names = dict(other.names)
        return other

    def _keep_names(self, changes: list[tuple[tuple[str, Inode | None], ...]]) -> None:
        for name, inode in (pair for change in changes for pair in change):
            if inode is None:
                self._durable_names.pop(name, None)
            else:
                self._durable_names[name] = inode


def _put(content: bytearray, offset: int, payload: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(payload)] = payload


def _sectors(offset: int, length: int) -> range:
    first = offset - offset % SECTOR_BYTES
    return range(first, offset + length, SECTOR_BYTES)
