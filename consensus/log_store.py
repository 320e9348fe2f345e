"""The log of all groups of a node: one writer, one fsync a batch.

    log/0000000000000001.log   segments, numbered without gaps; only the last one is written
    log/ballast                space that is given back when the disk is full (fault D7)

All groups' records stand mixed in one chain of segments; opening the store reads them once, and `recovered` hands
each group's part over. From then on the store keeps no entry in memory, only which segment each group still needs.
Compaction removes whole segments from the front; a group's newest small records (hard state, base, commit, epoch)
are written anew before the segment that held them goes.

The store decides nothing about Raft: it writes what it is told, in the order it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from consensus.disk import Disk, File, NoSpace, read_file
from consensus.log_records import GroupLog, GroupWrite, Recovered
from consensus.segments import (
    HEADER_BYTES,
    MARK_BYTES,
    OPENING_BYTES,
    SALT_BYTES,
    STORE_ID_BYTES,
    Record,
    RecordKind,
    Scan,
    SegmentCipher,
    SegmentHeader,
    decode_header,
    encode_header,
    record_bytes,
)
from mesh.errors import DamagedError, DiskError

BALLAST = "ballast"
SUFFIX = ".log"
TEMPORARY = ".new"


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Sizes of the files.

    A segment should hold several of the largest batches; small ones come back sooner at compaction. etcd takes
    64 MiB, for one busy group; a ledger writes some KiB a minute. The ballast is two segments, so that with the disk
    full there is room to vote, to hand over and to compact.
    """

    segment_bytes: int = 4 * 1024 * 1024
    ballast_bytes: int = 8 * 1024 * 1024


DEFAULT_OPTIONS = LogOptions()


@dataclass(frozen=True, slots=True)
class LogStatistics:
    store_id: bytes
    segments: int
    batches: int
    low_space: bool


class LogStore:
    """Open with `LogStore.open`; afterwards one thread at a time may call it."""

    def __init__(self, disk: Disk, key: bytes, random_bytes: Callable[[int], bytes], options: LogOptions) -> None:
        self._disk = disk
        self._key = key
        self._random_bytes = random_bytes
        self._options = options
        self._opening = random_bytes(OPENING_BYTES)
        self._groups: dict[int, GroupLog] = {}
        self._segments: list[int] = []
        self._failure: str | None = None
        self._batches = 0
        self._low_space = False
        self._file: File | None = None
        self._cipher: SegmentCipher
        self._end = HEADER_BYTES
        self._chain = 0
        self._capacity = 0
        self.store_id = b""
        self.created = False

    @classmethod
    def open(
        cls,
        disk: Disk,
        key: bytes,
        *,
        random_bytes: Callable[[int], bytes],
        options: LogOptions = DEFAULT_OPTIONS,
    ) -> LogStore:
        """The store in this folder; an empty folder becomes a new store with a new `store_id` (rule T3).

        Args:
            disk: The folder of the log, and of nothing else.
            key: 32 bytes, the node's key for data at rest.
            random_bytes: Where store id, salts and nonces come from; the simulator passes its own.
            options: Sizes.

        Raises:
            DamagedError: Something that was synced is missing or altered. Nothing was changed.
            DiskError: The disk failed.
            NoSpace: A new store, and no room for it.
        """
        store = cls(disk, key, random_bytes, options)
        names = disk.list()
        store._segments = sorted(int(name.removesuffix(SUFFIX), 16) for name in names if name.endswith(SUFFIX))
        if store._segments:
            store._recover()
        else:
            store.created = True
            store.store_id = random_bytes(STORE_ID_BYTES)
            store._add_segment(1, HEADER_BYTES)
        for name in names:
            if name.endswith(TEMPORARY):
                disk.remove(name)
        store._restore_ballast()
        return store

    def groups(self) -> tuple[int, ...]:
        """The groups that the log knows."""
        return tuple(sorted(self._groups))

    @property
    def is_empty(self) -> bool:
        """Nothing was ever written."""
        return not self._groups

    def recovered(self, group: int) -> Recovered:
        """What the log held of this group when it was opened; its entries are handed over once."""
        return self._groups.setdefault(group, GroupLog(group)).recovered()

    def write(self, batch: Sequence[GroupWrite]) -> None:
        """Make all of it durable: one write, one fsync.

        Raises:
            NoSpace: Nothing of it counts as written; the same batch may be tried again later.
            DiskError: The process must end; every later call raises too.
        """
        records = [record for write in batch for record in write.records()]
        if not records:
            return
        with self._ends_at_a_failure():
            self._append(records)
        for write in batch:
            self._groups.setdefault(write.group, GroupLog(write.group)).note(write, self._segments[-1])

    def compact(self, group: int, index: int) -> None:
        """Note that the group needs nothing up to `index` any more, and remove segments that nobody needs.

        Call it only when the snapshot that covers those entries is durable (pitfall 22).
        """
        log = self._groups[group]
        if index <= log.base:
            return
        if index > log.last:
            raise AssertionError(f"compaction up to {index} of a log that ends at {log.last}")
        needless = self._needless({group: index})
        records = [Record(RecordKind.COMPACT, group, index, 0, b"")]
        moved = [other for other in self._groups.values() if needless and 0 < other.small_in <= needless[-1]]
        for other in moved:
            records = other.small_records() + records
        with self._ends_at_a_failure():
            self._append(records)
            log.base = index
            log.small_in = log.small_in or self._segments[-1]
            for other in moved:
                other.small_in = self._segments[-1]
            self._remove_segments(needless)

    def restore_space(self) -> bool:
        """Put the ballast back if there is room again; True when writes need not be held back (any more)."""
        if self._low_space and self._disk.free_bytes() >= 3 * self._options.ballast_bytes:
            with self._ends_at_a_failure():
                self._restore_ballast()
        return not self._low_space

    @property
    def low_space(self) -> bool:
        """True since the ballast was given up: go read-only, hand over leadership, say so."""
        return self._low_space

    def statistics(self) -> LogStatistics:
        return LogStatistics(self.store_id, len(self._segments), self._batches, self._low_space)

    def close(self) -> None:
        """Give the file back; everything written is durable already."""
        if self._file is not None:
            self._disk.close(self._file)
            self._file = None

    # --- writing ----------------------------------------------------------------------------------------------

    @contextmanager
    def _ends_at_a_failure(self) -> Iterator[None]:
        """A failed write or sync is the end of this store, whatever later calls would say (fault D2)."""
        if self._failure is not None:
            raise DiskError("the log failed before", why=self._failure, hint="restart the node")
        try:
            yield
        except DiskError as error:
            self._failure = str(error)
            raise

    def _append(self, records: Sequence[Record]) -> None:
        """One unit: into the current segment if it fits, else into a new one, so that a unit never spans two."""
        needed_bytes = sum(record_bytes(len(record.body)) for record in records) + MARK_BYTES
        if self._end + needed_bytes > self._capacity:
            self._add_segment(self._segments[-1] + 1, HEADER_BYTES + needed_bytes)
        try:
            self._write_unit(records)
        except NoSpace:  # preallocated, and yet: a file system that copies on write
            self._give_up_ballast()
            self._write_unit(records)
        self._batches += 1
        self._mark()

    def _write_unit(self, records: Sequence[Record]) -> None:
        assert self._file is not None
        unit, chain = self._cipher.seal_unit(records, self._end, self._chain)
        self._disk.pwrite(self._file, self._end, unit)
        self._disk.fsync(self._file)
        self._end += len(unit)
        self._chain = chain

    def _mark(self) -> None:
        """Say behind the unit that it was synced; the next unit overwrites it, hence the chain leaves it out."""
        assert self._file is not None
        mark, _ = self._cipher.seal_unit([Record(RecordKind.MARK, 0, 0, 0, b"")], self._end, self._chain)
        try:
            self._disk.pwrite(self._file, self._end, mark)
        except NoSpace:
            return  # it only narrows a doubt; the unit itself is durable

    def _add_segment(self, number: int, needed_bytes: int) -> None:
        """Make a segment and write to it from now on; everything before it is synced by now."""
        header = SegmentHeader(number, self.store_id, self._random_bytes(SALT_BYTES), self._chain)
        size_bytes = max(self._options.segment_bytes, needed_bytes)
        try:
            self._make_segment(header, size_bytes)
        except NoSpace:
            self._give_up_ballast()
            self._make_segment(header, size_bytes)
        self._segments.append(number)
        self._use(header, size_bytes, HEADER_BYTES, header.crc)

    def _make_segment(self, header: SegmentHeader, size_bytes: int) -> None:
        name = _name(header.number)
        self._make_file(name + TEMPORARY, size_bytes, encode_header(header))
        self._disk.rename(name + TEMPORARY, name)
        self._disk.sync_folder()

    def _make_file(self, name: str, size_bytes: int, start: bytes) -> None:
        """A synced file of zeroes with this start; nothing of it is left when the disk is full."""
        self._disk.remove(name)
        file = self._disk.create(name)
        try:
            self._disk.preallocate(file, size_bytes)
            self._disk.pwrite(file, 0, start)
            self._disk.fsync(file)
        except NoSpace:
            self._disk.remove(name)
            raise
        finally:
            self._disk.close(file)

    def _use(self, header: SegmentHeader, capacity: int, end: int, chain: int) -> None:
        file = self._disk.open(_name(header.number))
        self.close()
        self._file = file
        self._cipher = SegmentCipher(self._key, header, self._opening)
        self._capacity, self._end, self._chain = capacity, end, chain

    # --- compaction and space ---------------------------------------------------------------------------------

    def _needless(self, bases: dict[int, int]) -> list[int]:
        """The segments at the front in which no group needs an entry, with these new bases; never the last one."""
        needless: list[int] = []
        for segment in self._segments[:-1]:
            if any(log.needs(segment, bases.get(group, log.base)) for group, log in self._groups.items()):
                break
            needless.append(segment)
        return needless

    def _remove_segments(self, segments: Sequence[int]) -> None:
        for segment in segments:
            # One by one: were two removals reordered by a crash, the hole between segments would look like damage.
            self._disk.remove(_name(segment))
            self._disk.sync_folder()
            self._segments.remove(segment)
            for log in self._groups.values():
                log.highest.pop(segment, None)

    def _give_up_ballast(self) -> None:
        """Turn the ballast into free space, once."""
        if self._low_space or BALLAST not in self._disk.list():
            raise NoSpace("the disk is full, and the log's reserve is used up", hint="free some space")
        self._low_space = True
        self._disk.remove(BALLAST)
        self._disk.sync_folder()

    def _restore_ballast(self) -> None:
        self._low_space = False
        if not self._options.ballast_bytes or BALLAST in self._disk.list():
            return
        try:
            self._make_file(BALLAST + TEMPORARY, self._options.ballast_bytes, b"")
        except NoSpace:
            self._low_space = True
            return
        self._disk.rename(BALLAST + TEMPORARY, BALLAST)
        self._disk.sync_folder()

    # --- opening ----------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        numbers = self._segments
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise DamagedError("a segment of the log is missing", why=f"found {numbers}", code="damaged.log")
        self._chain = -1
        for number in numbers:
            raw = read_file(self._disk, _name(number))
            header = decode_header(raw[:HEADER_BYTES], number)
            self._check_follows(header)
            scan = SegmentCipher(self._key, header, self._opening).scan(raw)
            for record in scan.records:
                self._groups.setdefault(record.group, GroupLog(record.group)).replay(record, number)
            self._chain = scan.chain
        for log in self._groups.values():
            log.finish()
        self._use(header, len(raw), scan.end, scan.chain)
        self._settle_tail(raw, scan)

    def _check_follows(self, header: SegmentHeader) -> None:
        if self._chain == -1:
            self.store_id = header.store_id
        elif header.previous_crc != self._chain or header.store_id != self.store_id:
            raise DamagedError(
                f"segment {header.number} of the log does not follow the one before it", code="damaged.log"
            )

    def _settle_tail(self, raw: bytes, scan: Scan) -> None:
        """Make durable what was read, and zero what an interrupted write left behind it.

        The last unit may stand in the page cache alone: the process was killed before its fsync, or the fsync failed
        and the kernel holds the pages for clean (D2). It is written anew, so that nothing is ever built on it that a
        power cut takes away; every unit before it was synced, or it would be the last. So were names, but for the last.
        """
        assert self._file is not None
        tail = raw[scan.unit_start : scan.end] + bytes(scan.torn_until - scan.end)
        if tail:
            self._disk.pwrite(self._file, scan.unit_start, tail)
        self._disk.fsync(self._file)
        self._disk.sync_folder()
        self._mark()


def _name(number: int) -> str:
    return f"{number:016x}{SUFFIX}"
