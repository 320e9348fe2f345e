"""Frames: what a link's byte stream is cut into.

    kind, 1 byte | flags, 1 byte | stream, 4 bytes | length of payload, 2 bytes | payload

A frame with its header fits into one TLS record (16 KiB), so that whatever is urgent waits for one record at most.

    HELLO    the first frame of each side: who I am, how far my ledger is (`mesh.link`)
    OPEN     a new stream; flags: lane; payload: its header, meaning nothing to the mux
    DATA     flags: lane; MORE: the message goes on in the next frame; END: nothing follows from this side
    RESET    the stream is over for both sides at once; payload: 1 byte of reason
    WINDOW   payload: 4 bytes of credit; stream 0: for the link, flags: lane
    NOTICE   flags: lane and MORE; a message that belongs to no stream and gets no answer
    PING     payload: 8 bytes that PONG returns
    PONG
    GOAWAY   I open no more streams here; the link closes when the last has ended
    LAST_WORD  why I close the link for good (`mesh.last_word`)

Source: the frame types of HTTP/2 (RFC 9113 section 6), without what both ends here do not need.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from mesh.errors import ProtocolError

FRAME_BYTES_MAX = 16 * 1024
HEADER_BYTES = 8
PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - HEADER_BYTES

HELLO_BYTES_MAX = 4096
OPEN_BYTES_MAX = 4096
LAST_WORD_BYTES_MAX = 256

_HEADER = struct.Struct(">BBIH")


class FrameKind(IntEnum):
    HELLO = 1
    OPEN = 2
    DATA = 3
    RESET = 4
    WINDOW = 5
    NOTICE = 6
    PING = 7
    PONG = 8
    GOAWAY = 9
    LAST_WORD = 10


LANE_BITS = 0x03
MORE = 0x10
END = 0x20

# What each kind may carry: (flags allowed, payload at least, payload at most, belongs to a stream: yes, no, either).
_SHAPE: dict[int, tuple[int, int, int, bool | None]] = {
    FrameKind.HELLO: (0, 1, HELLO_BYTES_MAX, False),
    FrameKind.OPEN: (LANE_BITS, 0, OPEN_BYTES_MAX, True),
    FrameKind.DATA: (LANE_BITS | MORE | END, 0, PAYLOAD_BYTES_MAX, True),
    FrameKind.RESET: (0, 1, 1, True),
    FrameKind.WINDOW: (LANE_BITS, 4, 4, None),
    FrameKind.NOTICE: (LANE_BITS | MORE, 1, PAYLOAD_BYTES_MAX, False),
    FrameKind.PING: (0, 8, 8, False),
    FrameKind.PONG: (0, 8, 8, False),
    FrameKind.GOAWAY: (0, 0, 0, False),
    FrameKind.LAST_WORD: (0, 1, LAST_WORD_BYTES_MAX, False),
}


@dataclass(slots=True)
class Frame:
    """Not frozen: one is made for every frame that arrives, and `frozen` triples what that costs."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def encode_frame(kind: int, payload: bytes | memoryview = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    """One frame, ready to be sent."""
    return _HEADER.pack(kind, flags, stream, len(payload)) + payload


class FrameDecoder:
    """Bytes in, frames out; never holds more than one incomplete frame.

    A header is judged as soon as it is whole, before the payload is waited for: an unknown kind, a flag or a length
    that its kind does not allow ends the link, since nothing after it could be read rightly.
    """

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, received: bytes) -> Iterator[Frame]:
        """Every frame that these bytes complete.

        Raises:
            ProtocolError: The bytes are no frames. The decoder must not be used any further.
        """
        self._pending += received
        pending = self._pending
        position, size = 0, len(pending)
        try:
            while size - position >= HEADER_BYTES:
                kind, flags, stream, length = _HEADER.unpack_from(pending, position)
                _check_header(kind, flags, stream, length)
                end = position + HEADER_BYTES + length
                if end > size:
                    break
                payload = bytes(pending[position + HEADER_BYTES : end])
                position = end
                yield Frame(kind, flags, stream, payload)
        finally:
            del pending[:position]

    def remainder(self) -> bytes:
        """What was fed and is no whole frame yet."""
        return bytes(self._pending)


def _check_header(kind: int, flags: int, stream: int, length: int) -> None:
    shape = _SHAPE.get(kind)
    if shape is None:
        raise ProtocolError("not a frame", why=f"unknown kind {kind}")
    allowed, shortest, longest, of_stream = shape
    if flags & ~allowed or flags & LANE_BITS == LANE_BITS:
        raise ProtocolError("not a frame", why=f"flags {flags:#x} on a {FrameKind(kind).name}")
    if not shortest <= length <= longest:
        raise ProtocolError("not a frame", why=f"a {FrameKind(kind).name} of {length} bytes")
    if of_stream is not None and (stream != 0) is not of_stream:
        raise ProtocolError("not a frame", why=f"a {FrameKind(kind).name} on stream {stream}")
