"""Segments: a torn tail is cut, rot is told, and no nonce is used twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.segments import (
    HEADER_BYTES,
    Record,
    RecordKind,
    Scan,
    SegmentCipher,
    SegmentHeader,
    decode_header,
    encode_header,
    record_bytes,
)
from mesh.errors import DamagedError

KEY = b"k" * 32
HEADER = SegmentHeader(7, b"s" * 16, b"t" * 16, 99)
SIZE = 64 * 1024


class Segment:
    """A segment being written, as bytes."""

    def __init__(self, opening: bytes = b"opening1") -> None:
        self.cipher = SegmentCipher(KEY, HEADER, opening)
        self.raw = bytearray(encode_header(HEADER).ljust(SIZE, b"\0"))
        self.end, self.chain = HEADER_BYTES, HEADER.crc
        self.starts: list[int] = []

    def write(self, *records: Record) -> None:
        self.starts.append(self.end)
        unit, self.chain = self.cipher.seal_unit(records, self.end, self.chain)
        self.raw[self.end : self.end + len(unit)] = unit
        self.end += len(unit)

    def mark(self) -> None:
        mark, _ = self.cipher.seal_unit([Record(RecordKind.MARK, 0, 0, 0, b"")], self.end, self.chain)
        self.raw[self.end : self.end + len(mark)] = mark

    def scan(self) -> Scan:
        return SegmentCipher(KEY, HEADER, b"opening2").scan(bytes(self.raw))


def entry(index: int, body: bytes = b"body") -> Record:
    return Record(RecordKind.ENTRY, 3, index, 2, body)


def test_what_was_written_is_read_back_in_order() -> None:
    segment = Segment()
    segment.write(entry(1), entry(2, b""))
    segment.write(Record(RecordKind.HARD_STATE, 0, 0, 5, b"vote"))
    segment.mark()
    scan = segment.scan()
    assert [record.index for record in scan.records] == [1, 2, 0]
    assert (scan.end, scan.chain, scan.torn_until) == (segment.end, segment.chain, segment.end)


def test_nothing_of_a_body_stands_in_clear() -> None:
    segment = Segment()
    segment.write(entry(1, b"a password nobody may read"))
    assert b"password" not in segment.raw


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_torn_last_unit_is_cut_whatever_part_of_it_is_there(seed: int, count: int) -> None:
    rng = random.Random(seed)
    segment = Segment()
    segment.write(entry(1), entry(2))
    segment.mark()
    before = bytes(segment.raw)
    end = segment.end
    segment.write(*(entry(3 + number, rng.randbytes(rng.randint(0, 1500))) for number in range(count)))
    for sector in range(end // 512, segment.end // 512 + 1):
        if rng.random() < 0.5:
            place = slice(sector * 512, sector * 512 + 512)
            segment.raw[place] = before[place]
    scan = segment.scan()
    assert [record.index for record in scan.records][:2] == [1, 2]
    assert len(scan.records) <= 2 + count
    segment.raw[scan.end : scan.torn_until] = bytes(scan.torn_until - scan.end)
    segment.end, segment.chain = scan.end, scan.chain
    segment.cipher = SegmentCipher(KEY, HEADER, b"opening3")
    segment.write(entry(len(scan.records) + 1, b"after"))
    assert segment.scan().records[-1].body == b"after"


def test_a_hole_before_a_later_unit_is_rot_and_never_cut() -> None:
    segment = Segment()
    segment.write(entry(1), entry(2))
    segment.write(entry(3))
    segment.raw[segment.starts[0] + 70] ^= 1
    with pytest.raises(DamagedError, match="damaged in segment 7"):
        segment.scan()


def test_a_hole_in_the_last_unit_is_rot_once_its_mark_is_there() -> None:
    segment = Segment()
    segment.write(entry(1))
    segment.write(entry(2))
    segment.raw[segment.starts[1] + 70] ^= 1
    assert [record.index for record in segment.scan().records] == [1]
    segment.raw[segment.starts[1] + 70] ^= 1
    segment.mark()
    segment.raw[segment.starts[1] + 70] ^= 1
    with pytest.raises(DamagedError):
        segment.scan()


@given(st.integers(0, 400), st.integers(0, 7))
def test_no_flipped_bit_ever_gives_a_wrong_record(offset: int, bit: int) -> None:
    segment = Segment()
    segment.write(entry(1, b"first"))
    segment.write(entry(2, b"second"), entry(3, b"third"))
    true = list(segment.scan().records)
    segment.raw[HEADER_BYTES + offset] ^= 1 << bit
    try:
        found = segment.scan().records
    except DamagedError:
        return
    assert list(found) == true[: len(found)]


def test_a_record_is_bound_to_its_place_its_segment_and_its_header() -> None:
    segment = Segment()
    segment.write(entry(1))
    size = record_bytes(4)
    segment.raw[segment.end : segment.end + size] = segment.raw[segment.starts[0] : segment.end]
    assert len(segment.scan().records) == 1
    other = SegmentCipher(KEY, SegmentHeader(8, HEADER.store_id, HEADER.salt, 99), b"opening2")
    assert other.scan(bytes(segment.raw)).records == ()


def test_another_key_opens_nothing_and_says_so() -> None:
    segment = Segment()
    segment.write(entry(1))
    with pytest.raises(DamagedError, match="does not open"):
        SegmentCipher(b"x" * 32, HEADER, b"opening2").scan(bytes(segment.raw))


def test_a_record_written_again_in_the_same_place_has_another_nonce() -> None:
    segment, again = Segment(), Segment(b"opening2")
    first, _ = segment.cipher.seal_unit([entry(1)], HEADER_BYTES, HEADER.crc)
    second, _ = segment.cipher.seal_unit([entry(1)], HEADER_BYTES, HEADER.crc)
    third, _ = again.cipher.seal_unit([entry(1)], HEADER_BYTES, HEADER.crc)
    assert len({unit[40:52] for unit in (first, second, third)}) == 3


def test_a_damaged_or_foreign_header_is_refused() -> None:
    page = bytearray(encode_header(HEADER))
    assert decode_header(bytes(page), 7) == HEADER
    with pytest.raises(DamagedError):
        decode_header(bytes(page), 8)
    page[20] ^= 1
    with pytest.raises(DamagedError):
        decode_header(bytes(page), 7)
