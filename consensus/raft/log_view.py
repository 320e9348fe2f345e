"""The log as the machine sees it: what is in memory, how much of it the disk has, how far it is committed.

    compacted │ first … snapshot.index … applied ≤ handed ≤ min(commit, stable) … stable … last
              └ base = first - 1

`stable` is how far the log *in memory* is also the log *on disk*. A truncation lowers it even while a write is under
way: what that write makes durable above the cut is no longer this log, and its completion must not count (pitfall 26).

The term of a compacted index is unknown, which is not 0: 0 would match the beginning of a log (pitfall 21).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from consensus.raft.messages import LogEntry, SnapshotMeta


class LogView:
    """Invariants: base ≤ snapshot.index ≤ last (or the log is empty there), applied ≤ handed ≤ commit ≤ last.

    Args:
        snapshot: The newest durable one; index 0 is the group's beginning.
        entries: The recovered tail, without gaps, perhaps beginning before the snapshot's end.
        applied: How far the state machine got; committed, hence.
    """

    def __init__(self, snapshot: SnapshotMeta, entries: Sequence[LogEntry], applied: int) -> None:
        for before, entry in pairwise(entries):
            assert entry.index == before.index + 1, f"the recovered log has a gap after {before.index}"
        self.snapshot = snapshot
        self._entries = list(entries) if connects(snapshot, entries) else []
        self._base = self._entries[0].index - 1 if self._entries else snapshot.index
        self._base_term = snapshot.term if self._base == snapshot.index else (0 if self._base == 0 else None)
        # Entries that do not connect are of a log that a snapshot replaced; the crash came before its reset.
        self._reset_wanted = bool(entries) and not self._entries
        self._truncate_wanted: int | None = None
        self.stable = self.last_index
        self._persisting_to = self.stable
        self.commit = max(snapshot.index, applied)
        self.handed = self.commit
        self.applied = self.commit
        assert self.commit <= self.last_index, "the state machine has applied what the log does not hold"

    # --- what is there ----------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        return self._base + 1

    @property
    def last_index(self) -> int:
        return self._base + len(self._entries)

    @property
    def last_term(self) -> int:
        term = self.term_at(self.last_index)
        assert term is not None, "the last entry's term is always known: a snapshot keeps it"
        return term

    def term_at(self, index: int) -> int | None:
        """The term of this entry; None if it is compacted or not there."""
        if self._base < index <= self.last_index:
            return self._entries[index - self._base - 1].term
        if index == self._base:
            return self._base_term
        return self.snapshot.term if index == self.snapshot.index else None

    def entries(self, first: int, last: int) -> tuple[LogEntry, ...]:
        """The entries first … last, all of which must be there."""
        assert self._base < first, f"entry {first} is compacted"
        return tuple(self._entries[first - self._base - 1 : last - self._base])

    def batch(self, first: int, *, entries_max: int, bytes_max: int) -> tuple[LogEntry, ...]:
        """As many entries from `first` on as fit; at least one if there is one."""
        batch = self.entries(first, min(self.last_index, first + entries_max - 1))
        room = bytes_max
        for count, entry in enumerate(batch):
            room -= entry.size_bytes()
            if room < 0 and count > 0:
                return batch[:count]
        return batch

    def size_bytes(self, first: int, last: int) -> int:
        return sum(entry.size_bytes() for entry in self.entries(first, last)) if first <= last else 0

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a candidate with this log may have our vote (thesis §3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def agreement_hint(self, index: int, term: int) -> tuple[int, int]:
        """The largest index ≤ `index` whose term is ≤ `term` or unknown, and that term (0: unknown).

        Above it the other log cannot agree with this one; so a whole run of entries of one term costs one
        message. Source: etcd-io/raft `findConflictByTerm`.
        """
        index = min(index, self.last_index)
        while index > 0:
            ours = self.term_at(index)
            if ours is None:
                return index, 0
            if ours <= term:
                return index, ours
            index -= 1
        return 0, 0

    # --- changes ----------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[LogEntry]) -> None:
        if entries:
            assert entries[0].index == self.last_index + 1, "entries are appended at the end"
            self._entries.extend(entries)

    def truncate_from(self, index: int) -> None:
        """Forget this entry and all after it; never a committed one (pitfall 19)."""
        assert index > self.commit, f"entry {index} is committed ({self.commit}) and was to be truncated"
        if index <= max(self.stable, self._persisting_to):
            self._truncate_wanted = index if self._truncate_wanted is None else min(index, self._truncate_wanted)
        del self._entries[index - self._base - 1 :]
        self.stable = min(self.stable, index - 1)
        self._persisting_to = min(self._persisting_to, index - 1)

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; it never falls (pitfall 20)."""
        assert index <= self.last_index, f"commit {index} is beyond the log's end ({self.last_index})"
        if index <= self.commit:
            return False
        self.commit = index
        return True

    def take_committed(self) -> tuple[LogEntry, ...]:
        """What may be applied next: committed, and durable here, so that no crash leaves a state without its log."""
        ready = min(self.commit, self.stable)
        if ready <= self.handed:
            return ()
        entries = self.entries(self.handed + 1, ready)
        self.handed = ready
        return entries

    def applied_to(self, index: int) -> None:
        assert index <= self.handed, f"{index} was applied and never handed out"
        self.applied = max(self.applied, index)

    # --- the disk ---------------------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        return self._reset_wanted or self._truncate_wanted is not None or self.last_index > self.stable

    def take_unstable(self) -> tuple[SnapshotMeta | None, int | None, tuple[LogEntry, ...]]:
        """What has to be written: reset, truncation, entries. One write at a time; `stabilized` ends it."""
        reset = self.snapshot if self._reset_wanted else None
        truncate = None if self._reset_wanted else self._truncate_wanted
        entries = self.entries(self.stable + 1, self.last_index) if self.last_index > self.stable else ()
        self._reset_wanted = False
        self._truncate_wanted = None
        self._persisting_to = self.last_index
        return reset, truncate, entries

    def stabilized(self) -> None:
        """The write last taken is durable, as far as it is still this log."""
        self.stable = max(self.stable, self._persisting_to)

    # --- snapshots --------------------------------------------------------------------------------------------

    def compact(self, snapshot: SnapshotMeta, *, keep_entries: int, keep_bytes: int) -> int:
        """A durable snapshot was taken of what is applied: forget old entries, but for a tail for slow followers.

        Returns:
            The index up to which entries are gone.
        """
        assert snapshot.index <= self.applied, "a snapshot holds what is applied"
        if snapshot.index <= self.snapshot.index:
            return self._base
        self.snapshot = snapshot
        cut = min(snapshot.index, self.stable)
        kept = 0
        room = keep_bytes
        while cut > self._base and kept < keep_entries:
            room -= self.entries(cut, cut)[0].size_bytes()
            if room < 0:
                break
            kept += 1
            cut -= 1
        if cut > self._base:
            self._base_term = self.term_at(cut)
            del self._entries[: cut - self._base]
            self._base = cut
        return self._base

    def restore(self, snapshot: SnapshotMeta) -> None:
        """A snapshot from the leader is installed. The tail stays if the log agrees with it (thesis §5.1, §7)."""
        assert snapshot.index > self.commit, "a snapshot of what is committed here is not installed (pitfall 22)"
        if self.term_at(snapshot.index) != snapshot.term:
            self._entries = []
            self._base = snapshot.index
            self._base_term = snapshot.term
            self._reset_wanted = True
            self._truncate_wanted = None
            self.stable = snapshot.index
            self._persisting_to = snapshot.index
        self.snapshot = snapshot
        self.commit = self.handed = self.applied = snapshot.index


def connects(snapshot: SnapshotMeta, entries: Sequence[LogEntry]) -> bool:
    """Whether a recovered log continues this snapshot.

    Raises:
        AssertionError: It begins after a gap; entries are missing that no snapshot stands for.
    """
    if not entries:
        return False
    assert entries[0].index <= snapshot.index + 1, f"entries {snapshot.index + 1} … {entries[0].index - 1} are missing"
    if entries[0].index == snapshot.index + 1:
        return True
    if entries[-1].index < snapshot.index:
        return False
    return entries[snapshot.index - entries[0].index].term == snapshot.term
