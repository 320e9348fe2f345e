"""What a group writes to the log, as records, and what records read back mean for a group.

`GroupLog` is the one place that knows both directions: `note` when a write became durable, `replay` when the log is
opened. It keeps entries only while the log is being opened; afterwards it knows where they lie, not what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.raft.messages import EntryKind, HardState, LogEntry
from consensus.segments import Record, RecordKind
from mesh.errors import DamagedError
from mesh.names import NodeId
from mesh.versioned import Codec

STORED = Codec()
"""The bodies of the small records; entries are stored as they are."""

_ENTRY_RECORDS = {
    EntryKind.NORMAL: RecordKind.ENTRY,
    EntryKind.CONFIG: RecordKind.CONFIG_ENTRY,
    EntryKind.NOOP: RecordKind.NOOP_ENTRY,
}
_ENTRY_KINDS = {record: kind for kind, record in _ENTRY_RECORDS.items()}


@STORED.message("log.hard-state")
@dataclass(frozen=True, slots=True)
class StoredHardState:
    term: int
    vote: NodeId | None


@dataclass(frozen=True, slots=True)
class GroupWrite:
    """What one group wants durable, in this order: epoch, hard state, reset, truncation, entries, commit."""

    group: int
    hard_state: HardState | None = None
    truncate_from: int | None = None
    entries: tuple[LogEntry, ...] = ()
    reset_to: int = 0  # the log starts anew behind this index; a snapshot of it is durable already; 0: no reset
    commit: int = 0  # known to be committed: lets a restart apply before there is a leader; 0: nothing new
    epoch: int = 0  # 0: unchanged

    def is_empty(self) -> bool:
        """True if there is nothing to write."""
        return self == GroupWrite(self.group)

    def records(self) -> list[Record]:
        """The records that say it."""
        group = self.group
        records: list[Record] = []
        if self.epoch:
            records.append(Record(RecordKind.EPOCH, group, self.epoch, 0, b""))
        if self.hard_state is not None:
            records.append(_hard_state_record(group, self.hard_state))
        if self.reset_to:
            records.append(Record(RecordKind.RESET, group, self.reset_to, 0, b""))
        if self.truncate_from is not None:
            records.append(Record(RecordKind.TRUNCATE, group, self.truncate_from, 0, b""))
        records += [
            Record(_ENTRY_RECORDS[entry.kind], group, entry.index, entry.term, entry.payload)
            for entry in self.entries
        ]
        if self.commit:
            records.append(Record(RecordKind.COMMIT, group, self.commit, 0, b""))
        return records


@dataclass(frozen=True, slots=True)
class Recovered:
    """A group as its log remembers it. `entries` follow on `base` without a gap; a snapshot stands for the rest."""

    hard_state: HardState
    base: int
    entries: tuple[LogEntry, ...]
    commit: int
    epoch: int


def recovered_from(first: GroupWrite) -> Recovered:
    """What a new group's first write will read like after a restart."""
    return Recovered(first.hard_state or HardState(0, None), 0, first.entries, first.commit, first.epoch)


@dataclass(slots=True)
class GroupLog:
    """One group's newest small records, and the segments its entries lie in."""

    group: int
    hard_state: HardState = field(default_factory=lambda: HardState(0, None))
    base: int = 0  # entries up to this one are not needed
    commit: int = 0
    epoch: int = 0
    small_in: int = 0  # the oldest segment in which one of the above may stand; 0: none was written
    last: int = 0  # while opening, 0 also means that the first entry was not met yet
    highest: dict[int, int] = field(default_factory=dict)  # segment → highest live entry in it
    entries: list[LogEntry] = field(default_factory=list)  # only while opening

    def needs(self, segment: int, base_index: int) -> bool:
        """True if an entry above `base_index` lies in this segment."""
        return self.highest.get(segment, 0) > base_index

    def small_records(self) -> list[Record]:
        """The newest small records, to be written anew before the segment that holds them goes."""
        records = [_hard_state_record(self.group, self.hard_state)]
        if self.epoch:
            records.append(Record(RecordKind.EPOCH, self.group, self.epoch, 0, b""))
        if self.base:
            records.append(Record(RecordKind.COMPACT, self.group, self.base, 0, b""))
        if self.commit:
            records.append(Record(RecordKind.COMMIT, self.group, self.commit, 0, b""))
        return records

    def note(self, write: GroupWrite, segment: int) -> None:
        """The write is durable, in this segment."""
        if write.epoch or write.commit or write.hard_state is not None or write.reset_to:
            self.small_in = self.small_in or segment
        self.hard_state = write.hard_state or self.hard_state
        self.epoch = write.epoch or self.epoch
        self.commit = max(self.commit, write.commit)
        if write.reset_to:
            self.base = self.last = write.reset_to
            self.highest = {}
        if write.truncate_from is not None:
            self._truncate(write.truncate_from)
        for entry in write.entries:
            if entry.index != self.last + 1:
                raise AssertionError(f"group {self.group}: entry {entry.index} does not follow {self.last}")
            self.last = entry.index
            self.highest[segment] = entry.index

    def replay(self, record: Record, segment: int) -> None:
        """Take in a record that stands in the log.

        The first records met may belong to entries whose earlier ones went with a compaction that is recorded
        further on, so nothing is said about gaps before `finish`, except within the entries themselves.
        """
        match record.kind:
            case RecordKind.ENTRY | RecordKind.CONFIG_ENTRY | RecordKind.NOOP_ENTRY:
                self._replay_entry(record, segment)
                return
            case RecordKind.TRUNCATE:
                self._truncate(record.index)
                while self.entries and self.entries[-1].index >= record.index:
                    self.entries.pop()
                return
            case RecordKind.HARD_STATE:
                stored = STORED.decode(record.body, StoredHardState)
                self.hard_state = HardState(stored.term, stored.vote)
            case RecordKind.COMPACT:
                self.base = record.index
            case RecordKind.RESET:
                self.base = self.last = record.index
                self.entries, self.highest = [], {}
            case RecordKind.COMMIT:
                self.commit = max(self.commit, record.index)
            case RecordKind.EPOCH:
                self.epoch = record.index
        self.small_in = self.small_in or segment

    def finish(self) -> None:
        """All records were met.

        Raises:
            DamagedError: Entries are missing between what snapshots cover and what the log holds.
        """
        self.entries = [entry for entry in self.entries if entry.index > self.base]
        if self.entries and self.entries[0].index != self.base + 1:
            raise self._gap(self.entries[0].index, self.base)
        self.last = self.entries[-1].index if self.entries else self.base

    def recovered(self) -> Recovered:
        """What was read; the entries are handed over and forgotten."""
        entries, self.entries = tuple(self.entries), []
        return Recovered(self.hard_state, self.base, entries, self.commit, self.epoch)

    def _replay_entry(self, record: Record, segment: int) -> None:
        if self.last and record.index != self.last + 1:
            raise self._gap(record.index, self.last)
        self.entries.append(LogEntry(record.index, record.term, _ENTRY_KINDS[record.kind], record.body))
        self.last = record.index
        self.highest[segment] = record.index

    def _truncate(self, first_gone: int) -> None:
        self.last = min(self.last, first_gone - 1)
        self.highest = {segment: min(index, first_gone - 1) for segment, index in self.highest.items()}

    def _gap(self, found: int, last: int) -> DamagedError:
        return DamagedError(
            f"the log of group {self.group} has a gap",
            why=f"entry {found} follows {last}",
            hint="nothing was cut; start with an empty log to fetch everything from the other nodes",
            code="damaged.log",
        )


def _hard_state_record(group: int, hard_state: HardState) -> Record:
    body = STORED.encode(StoredHardState(hard_state.term, hard_state.vote))
    return Record(RecordKind.HARD_STATE, group, 0, hard_state.term, body)
