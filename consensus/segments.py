"""What a log's segment files look like, and how one that was interrupted is told from one that is damaged.

A segment is a preallocated, zeroed file: a header page, then records, then zeroes. Each record is

    magic 4 | body length 4 | unit start 4 | previous crc 4 | kind 1 | version 1 | 0 2 | group 4 | index 8 | term 8 |
    nonce 12 | crc 4 | body: AES-256-GCM ciphertext and tag, padded to 8

- The *crc* covers the record and where it stands (segment number, offset), so a misdirected write is found (D9).
  Each record also holds the crc of the one before it: that is the chain, and it runs on through the next header.
- The *seal* binds store, segment, offset, group, index, term and kind. Every segment has a key of its own (master
  key, store id, random salt), and a nonce is eight random bytes of this opening of the log and a counter: a record
  that was written, lost and written anew never shares a nonce with the first (attack 42).
- A *unit* is what one fsync covered, and a unit lies in one segment. A record says where its unit starts. This is
  what tells torn from rotten. Imagine a torn page somewhere, and valid records behind it. If they belong to the unit
  that the hole is in, they were simply written before the power went, in whatever order the disk liked: nobody was
  ever told that they exist, and the tail is cut. If they start a later unit, then the unit with the hole had been
  synced, somebody may have been told, and cutting it would lose an acknowledged entry: `DamagedError` (D3, D4).
- After each fsync a *mark* is written behind the unit, not synced, to be overwritten by the next unit. Where the
  kernel had time to write it, it shows that the last unit too was complete once. The header of the next segment does
  the same for a segment's last unit: it holds that unit's crc.

Sources: OSDI'14 "All File Systems Are Not Created Equal"; FAST'18 "Protocol-Aware Recovery"; LogCabin's segments.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.errors import DamagedError, UpgradeNeeded

HEADER_BYTES = 4096
"""The header has a page of its own, so that writing a record never rewrites it."""

STORE_ID_BYTES = 16
SALT_BYTES = 16
OPENING_BYTES = 8
TAG_BYTES = 16
BODY_BYTES_MAX = 64 * 1024 * 1024
"""Far above any entry (1 MiB): a length beyond it is damage, and no memory is taken for it."""

_SEGMENT_MAGIC = b"fclogseg"
_FORMAT = 1
_SEGMENT = struct.Struct("<8sHH4xQ16s16sI")  # magic, format, 0, number, store id, salt, previous crc
_CRC = struct.Struct("<I")
_RECORD_MAGIC = b"\xf5rec"
_FRAME = struct.Struct("<4sIIIBBHIQQ12s")
_PLACE = struct.Struct("<QQ")  # segment number, offset
FRAME_BYTES = _FRAME.size + _CRC.size
MARK_BYTES = FRAME_BYTES + TAG_BYTES
_ALIGNMENT = 8


class RecordKind(IntEnum):
    """Stored in one byte: never renumber."""

    ENTRY = 1
    CONFIG_ENTRY = 2
    HARD_STATE = 3
    TRUNCATE = 4  # entries from `index` on are gone
    COMPACT = 5  # entries up to `index` are not needed: a snapshot stands for them
    RESET = 6  # the log starts anew behind `index`: a snapshot was installed
    COMMIT = 7  # everything up to `index` is known to be committed
    EPOCH = 8  # `index` is the epoch (rule T5)
    MARK = 9  # the unit before it was synced
    NOOP_ENTRY = 10


_KINDS = frozenset(kind.value for kind in RecordKind)


@dataclass(frozen=True, slots=True)
class Record:
    """One record as its writer means it."""

    kind: RecordKind
    group: int
    index: int
    term: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    number: int
    store_id: bytes
    salt: bytes
    previous_crc: int  # of the last record in the segment before; 0 for the first

    @property
    def crc(self) -> int:
        """Where this segment's chain begins."""
        return zlib.crc32(_pack_header(self))


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment holds."""

    records: tuple[Record, ...]
    unit_start: int  # where the last unit begins; == `end`: there is none
    end: int  # where the next unit goes
    chain: int  # crc of the last record
    torn_until: int  # bytes from `end` up to here are remains of an interrupted write; == `end`: none


def encode_header(header: SegmentHeader) -> bytes:
    """The header's page."""
    packed = _pack_header(header)
    return (packed + _CRC.pack(zlib.crc32(packed))).ljust(HEADER_BYTES, b"\0")


def decode_header(page: bytes, number: int) -> SegmentHeader:
    """The header of segment `number`; it was synced before the file got its name, so anything odd is damage.

    Raises:
        DamagedError: It is not what was written.
        UpgradeNeeded: A newer program wrote it.
    """
    packed = page[: _SEGMENT.size]
    crc = page[_SEGMENT.size : _SEGMENT.size + _CRC.size]
    if len(page) < HEADER_BYTES or _CRC.pack(zlib.crc32(packed)) != crc:
        raise DamagedError(f"the header of log segment {number} is damaged", code="damaged.log")
    magic, version, _, written_number, store_id, salt, previous_crc = _SEGMENT.unpack(packed)
    if magic != _SEGMENT_MAGIC or written_number != number:
        raise DamagedError(
            f"log segment {number} holds something else", why=f"it says {written_number}", code="damaged.log"
        )
    if version > _FORMAT:
        raise UpgradeNeeded(f"the log has format {version} and this program knows {_FORMAT}", hint="upgrade this node")
    return SegmentHeader(number, store_id, salt, previous_crc)


def record_bytes(body_bytes: int) -> int:
    """How much room a record with a body of this length takes."""
    return _aligned(FRAME_BYTES + body_bytes + TAG_BYTES)


class SegmentCipher:
    """Seals and opens the records of one segment; holds its key and the nonces' counter.

    Args:
        master_key: 32 bytes, the node's key for data at rest.
        header: Of the segment.
        opening: Random bytes drawn anew each time the log is opened.
    """

    def __init__(self, master_key: bytes, header: SegmentHeader, opening: bytes) -> None:
        if len(master_key) != 32 or len(opening) != OPENING_BYTES:
            raise ValueError("a key has 32 bytes, an opening 8")
        self.header = header
        self._opening = opening
        self._counter = 0
        key = hashlib.blake2b(
            header.store_id + header.salt, key=master_key, digest_size=32, person=b"freecloud-log-1"
        ).digest()
        self._cipher = AESGCM(key)

    def seal_unit(self, records: Sequence[Record], offset: int, chain: int) -> tuple[bytes, int]:
        """The bytes of one unit that starts at `offset`, and the chain's new crc."""
        unit_start = offset
        parts: list[bytes] = []
        for record in records:
            sealed, chain = self._seal(record, offset, unit_start, chain)
            parts.append(sealed)
            offset += len(sealed)
        return b"".join(parts), chain

    def _seal(self, record: Record, offset: int, unit_start: int, chain: int) -> tuple[bytes, int]:
        nonce = self._opening + self._counter.to_bytes(4, "big")
        self._counter += 1
        length = len(record.body) + TAG_BYTES
        frame = _FRAME.pack(
            _RECORD_MAGIC,
            length,
            unit_start,
            chain,
            record.kind,
            _FORMAT,
            0,
            record.group,
            record.index,
            record.term,
            nonce,
        )
        body = self._cipher.encrypt(nonce, record.body, self._bound(frame, offset))
        crc = self._crc(frame, body, offset)
        whole = frame + _CRC.pack(crc) + body
        return whole.ljust(_aligned(len(whole)), b"\0"), crc

    def scan(self, raw: bytes) -> Scan:
        """Read a whole segment. Whether it is all that was written, the next segment's header knows.

        Raises:
            DamagedError: A record that was synced is not there any more, or does not open.
            UpgradeNeeded: A newer program wrote a record.
        """
        records: list[Record] = []
        offset, chain = HEADER_BYTES, self.header.crc
        unit_start = offset
        while (frame := self._frame_at(raw, offset)) is not None:
            if frame.previous_crc != chain:
                raise self._damaged(offset, "its record does not follow the one before it")
            record = self._open(raw, frame)
            if record.kind is RecordKind.MARK:
                break
            records.append(record)
            chain = frame.crc
            unit_start = frame.unit_start
            offset = frame.end
        self._refuse_rot(raw, offset)
        used = len(raw.rstrip(b"\0"))
        torn_until = offset if frame is not None and used <= frame.end else max(offset, used)
        return Scan(tuple(records), unit_start, offset, chain, torn_until)

    def _refuse_rot(self, raw: bytes, hole: int) -> None:
        """Raise if a valid record of a unit that began after the hole lies behind it."""
        found = raw.find(_RECORD_MAGIC, hole)
        while found >= 0:
            frame = self._frame_at(raw, found) if found % _ALIGNMENT == 0 else None
            if frame is not None and frame.unit_start > hole:
                raise self._damaged(hole, f"a record that was written later stands whole at {found}")
            found = raw.find(_RECORD_MAGIC, found + 1)

    def _frame_at(self, raw: bytes, offset: int) -> _Frame | None:
        """The record that starts there, if it is whole and belongs there."""
        if raw[offset : offset + 4] != _RECORD_MAGIC or offset + FRAME_BYTES > len(raw):
            return None
        packed = raw[offset : offset + _FRAME.size]
        _, length, unit_start, previous_crc, kind, version, _, group, index, term, nonce = _FRAME.unpack(packed)
        body_at = offset + FRAME_BYTES
        if not TAG_BYTES <= length <= min(BODY_BYTES_MAX, len(raw) - body_at):
            return None
        body = raw[body_at : body_at + length]
        crc = self._crc(packed, body, offset)
        if _CRC.pack(crc) != raw[offset + _FRAME.size : body_at]:
            return None
        return _Frame(
            offset, _aligned(body_at + length), packed, body, unit_start, previous_crc, crc,
            kind, version, group, index, term, nonce,
        )  # fmt: skip

    def _open(self, raw: bytes, frame: _Frame) -> Record:
        if frame.version > _FORMAT or frame.kind not in _KINDS:
            raise UpgradeNeeded("the log holds a record that this program does not know", hint="upgrade this node")
        try:
            body = self._cipher.decrypt(frame.nonce, frame.body, self._bound(frame.packed, frame.offset))
        except InvalidTag as error:
            raise self._damaged(frame.offset, "a record does not open under this node's key") from error
        return Record(RecordKind(frame.kind), frame.group, frame.index, frame.term, body)

    def _bound(self, frame: bytes, offset: int) -> bytes:
        return self.header.store_id + _PLACE.pack(self.header.number, offset) + frame

    def _crc(self, frame: bytes, body: bytes, offset: int) -> int:
        return zlib.crc32(body, zlib.crc32(frame, zlib.crc32(_PLACE.pack(self.header.number, offset))))

    def _damaged(self, offset: int, why: str) -> DamagedError:
        return DamagedError(
            f"the log is damaged in segment {self.header.number} at byte {offset}",
            why=why,
            hint="nothing was cut; start with an empty log to fetch everything from the other nodes",
            code="damaged.log",
        )


@dataclass(frozen=True, slots=True)
class _Frame:
    """A record whose crc is right."""

    offset: int
    end: int
    packed: bytes
    body: bytes
    unit_start: int
    previous_crc: int
    crc: int
    kind: int
    version: int
    group: int
    index: int
    term: int
    nonce: bytes


def _pack_header(header: SegmentHeader) -> bytes:
    return _SEGMENT.pack(
        _SEGMENT_MAGIC, _FORMAT, 0, header.number, header.store_id, header.salt, header.previous_crc
    )


def _aligned(size: int) -> int:
    return (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
