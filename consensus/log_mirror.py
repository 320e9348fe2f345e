"""What the disk holds of one group's log, in memory: entries by reference, and which configuration acts where.

It changes when a write became durable, never before, so whatever is read here could be read after a power cut, too.
Peers that copy the log are served from it, and a Raft replica is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from consensus.log_records import GroupWrite
from consensus.raft.messages import RAFT, Configuration, EntryKind, LogEntry, SnapshotMeta

NO_MEMBERS = Configuration(frozenset(), frozenset(), frozenset())
NOTHING = SnapshotMeta(0, 0, NO_MEMBERS)
"""Before the first snapshot."""


class LogMirror:
    """Invariant: entries are base+1 … last without a gap; the snapshot is at or behind `base`.

    Args:
        base: Entries up to this index are not there any more; a snapshot stands for them.
        entries: What follows on `base`.
        snapshot: The newest durable one. Entries that do not reach it, or contradict it, are of a log that it replaced.
    """

    def __init__(self, base: int, entries: Sequence[LogEntry], snapshot: SnapshotMeta) -> None:
        assert all(after.index == before.index + 1 for before, after in pairwise(entries)), "the log has a gap"
        self.snapshot = snapshot
        self._base = base
        self._entries = list(entries)
        self._configurations: list[tuple[int, Configuration]] = [(snapshot.index, snapshot.configuration)]
        self._note_configurations(entries)

    @property
    def base(self) -> int:
        return self._base

    @property
    def last(self) -> int:
        return self._base + len(self._entries)

    @property
    def reaches_snapshot(self) -> bool:
        """False if the log is of before an installed snapshot: a crash came before its reset."""
        index = self.snapshot.index
        if self._base == index and not self._entries:
            return True
        return self._base <= index <= self.last and (
            self._base == index or self._entries[index - self._base - 1].term == self.snapshot.term
        )

    def term_at(self, index: int) -> int | None:
        """The entry's term, 0 for index 0, None if it is compacted or not there."""
        if self._base < index <= self.last:
            return self._entries[index - self._base - 1].term
        if index == self.snapshot.index:
            return self.snapshot.term
        return 0 if index == 0 else None

    def entries(self, first: int, last: int) -> tuple[LogEntry, ...]:
        """Entries first … last, as far as they are there; `first` must not be compacted."""
        assert first > self._base, f"entry {first} is compacted"
        return tuple(self._entries[first - self._base - 1 : max(0, last - self._base)])

    def batch(self, first: int, last: int, *, entries_max: int, bytes_max: int) -> tuple[LogEntry, ...]:
        """As many of first … last as fit; at least one if there is one."""
        found = self.entries(first, min(last, first + entries_max - 1))
        for count, entry in enumerate(found):
            bytes_max -= entry.size_bytes()
            if bytes_max < 0 and count > 0:
                return found[:count]
        return found

    @property
    def acting(self) -> Configuration:
        """The newest configuration, committed or not (pitfall 14)."""
        return self._configurations[-1][1]

    def configuration_at(self, index: int) -> Configuration:
        """What a snapshot at this index has to carry (pitfall 16)."""
        return next(members for at, members in reversed(self._configurations) if at <= index)

    # --- what became durable ----------------------------------------------------------------------------------

    def note_written(self, write: GroupWrite) -> None:
        """A write of this group is on the disk."""
        if write.reset_to:
            self._base, self._entries = write.reset_to, []
            self._configurations = self._configurations[:1]
        if write.truncate_from is not None:
            first_gone = write.truncate_from
            del self._entries[max(0, first_gone - self._base - 1) :]
            kept = [(at, members) for at, members in self._configurations[1:] if at < first_gone]
            self._configurations = [self._configurations[0], *kept]
        if write.entries:
            assert write.entries[0].index == self.last + 1, f"{write.entries[0].index} follows {self.last}"
            self._entries.extend(write.entries)
            self._note_configurations(write.entries)

    def note_snapshot(self, snapshot: SnapshotMeta) -> None:
        """A newer snapshot is durable; the log is still there."""
        self.snapshot = snapshot
        later = [(at, members) for at, members in self._configurations if at > snapshot.index]
        self._configurations = [(snapshot.index, snapshot.configuration), *later]

    def note_compacted(self, index: int) -> None:
        """Entries up to `index` are not needed on the disk any more."""
        assert index <= self.snapshot.index, "only what a snapshot stands for is compacted"
        if index > self._base:
            del self._entries[: index - self._base]
            self._base = index

    def _note_configurations(self, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            if entry.kind is EntryKind.CONFIG and entry.index > self.snapshot.index:
                self._configurations.append((entry.index, RAFT.decode(entry.payload, Configuration)))
