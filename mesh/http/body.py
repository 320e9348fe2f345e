"""Bodies, decoded: by length, in chunks, until the connection's end. Machines over one `Inbox` of received bytes.

llhttp isn't asked here: it reads on into the next request, which would leave pipelining without a bound and an
upgraded connection without its first bytes, and it shows neither the size of a chunk's extension nor a trailer's.

Source: RFC 9112 §6–7.
"""

from __future__ import annotations

import re
from enum import Enum

from mesh.http.head import body_too_large, field_name
from mesh.http.limits import HttpLimits
from mesh.http.messages import Framing, HttpRefused, PeerGone, Signal

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?")
"""No whitespace round the size: RFC 9112 allows none there, and parsers disagree over it."""

CHUNK_SIZE_DIGITS_MAX = 16
_TRAILER_BYTES = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])


class Inbox:
    """Bytes received and not yet understood. Its owner stops reading while it holds enough, which is its bound."""

    __slots__ = ("bytes_held", "ended")

    def __init__(self) -> None:
        self.bytes_held = bytearray()
        self.ended = False

    def feed(self, piece: bytes) -> None:
        """Add what was received; b"" says that the peer will send no more."""
        if piece:
            self.bytes_held += piece
        else:
            self.ended = True

    def take(self, count: int) -> bytes:
        """The first `count` bytes, or fewer if there are fewer."""
        held = self.bytes_held
        if count >= len(held):
            self.bytes_held = bytearray()
            return bytes(held)
        with memoryview(held) as view:
            piece = bytes(view[:count])
        del held[:count]
        return piece

    def line(self, bytes_max: int) -> bytes | None:
        """The next line without its CRLF, or None if its end hasn't come.

        Raises:
            HttpRefused: Longer than `bytes_max`, or a bare LF in it.
        """
        held = self.bytes_held
        end = held.find(b"\r\n", 0, bytes_max + 2)
        if end < 0:
            if len(held) > bytes_max + 1 or b"\n" in held:
                raise HttpRefused("a line inside the body is too long or ends wrongly")
            return None
        line = bytes(held[:end])
        del held[: end + 2]
        return line


class NoBody:
    """A message without content."""

    __slots__ = ()
    remaining = 0

    def next(self, inbox: Inbox) -> bytes | Signal:
        return Signal.END


class LengthBody:
    """`remaining` bytes, no more."""

    __slots__ = ("remaining",)

    def __init__(self, length: int) -> None:
        self.remaining = length

    def next(self, inbox: Inbox) -> bytes | Signal:
        """The next piece, END after the last.

        Raises:
            PeerGone: The peer closed before all of it came; what came must not be taken for the whole.
        """
        if not self.remaining:
            return Signal.END
        piece = inbox.take(self.remaining)
        if not piece:
            return _wait(inbox)
        self.remaining -= len(piece)
        return piece


class _At(Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data-end"
    TRAILER = "trailer"
    DONE = "done"


class ChunkedBody:
    """Chunks, their extensions and the trailer section; the last two are read and dropped."""

    __slots__ = ("_at", "_chunk_left", "_extension_bytes", "_limits", "_received", "_size_max", "_trailer_bytes")
    remaining: None = None  # nobody knows

    def __init__(self, limits: HttpLimits, size_max: int) -> None:
        self._limits = limits
        self._size_max = size_max
        self._at = _At.SIZE
        self._chunk_left = 0
        self._received = 0
        self._extension_bytes = 0
        self._trailer_bytes = 0

    def next(self, inbox: Inbox) -> bytes | Signal:
        """The next piece of content, END after the trailer section.

        Raises:
            HttpRefused: The framing is broken or a limit was hit.
            PeerGone: The peer closed before the end.
        """
        while True:
            match self._at:
                case _At.SIZE:
                    if not self._read_size(inbox):
                        return _wait(inbox)
                case _At.DATA:
                    piece = inbox.take(self._chunk_left)
                    if not piece:
                        return _wait(inbox)
                    self._chunk_left -= len(piece)
                    if not self._chunk_left:
                        self._at = _At.DATA_END
                    return piece
                case _At.DATA_END:
                    if not self._read_data_end(inbox):
                        return _wait(inbox)
                case _At.TRAILER:
                    if not self._read_trailer(inbox):
                        return _wait(inbox)
                case _At.DONE:
                    return Signal.END

    def _read_size(self, inbox: Inbox) -> bool:
        line = inbox.line(CHUNK_SIZE_DIGITS_MAX + self._limits.chunk_extension_bytes_max)
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise HttpRefused("a chunk's size is malformed")
        self._count_extension(match.group(2))
        size = int(match.group(1), 16)
        self._received += size
        if self._received > self._size_max:
            raise body_too_large(self._limits)
        self._chunk_left = size
        self._at = _At.DATA if size else _At.TRAILER
        return True

    def _count_extension(self, extension: bytes | None) -> None:
        if extension is None:
            return
        self._extension_bytes += len(extension)
        if (
            len(extension) > self._limits.chunk_extension_bytes_max
            or self._extension_bytes > self._limits.chunk_extensions_total_bytes_max
        ):
            raise HttpRefused("the chunks' extensions are too large", status=413, code="limit.chunk-extension")

    def _read_data_end(self, inbox: Inbox) -> bool:
        held = inbox.bytes_held
        if not b"\r\n".startswith(held[:2]):
            raise HttpRefused("a chunk is not as long as its size says")
        if len(held) < 2:
            return False
        del held[:2]
        self._at = _At.SIZE
        return True

    def _read_trailer(self, inbox: Inbox) -> bool:
        line = inbox.line(self._limits.trailer_bytes_max)
        if line is None:
            return False
        if not line:
            self._at = _At.DONE
            return True
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > self._limits.trailer_bytes_max:
            raise HttpRefused("the trailer section is too large", status=431, code="limit.trailer")
        name, colon, value = line.partition(b":")
        if not colon or value.translate(None, _TRAILER_BYTES):
            raise HttpRefused("a trailer line is malformed")
        field_name(name)
        return True


class UntilCloseBody:
    """A response's body that ends with its connection (RFC 9112 6.3, case 8)."""

    __slots__ = ()
    remaining: None = None

    def next(self, inbox: Inbox) -> bytes | Signal:
        piece = inbox.take(len(inbox.bytes_held))
        if not piece:
            return Signal.END if inbox.ended else Signal.NEED_DATA
        return piece


Body = NoBody | LengthBody | ChunkedBody | UntilCloseBody
NO_BODY = NoBody()


def body_of(framing: Framing, length: int, limits: HttpLimits, size_max: int) -> Body:
    """The decoder for a message framed like this; `size_max` bounds one that doesn't say its size beforehand."""
    match framing:
        case Framing.NONE:
            return NO_BODY
        case Framing.LENGTH:
            return LengthBody(length)
        case Framing.CHUNKED:
            return ChunkedBody(limits, size_max)
        case Framing.UNTIL_CLOSE:
            return UntilCloseBody()


def _wait(inbox: Inbox) -> Signal:
    if inbox.ended:
        raise PeerGone("the connection ended in the middle of a body")
    return Signal.NEED_DATA
