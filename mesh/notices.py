"""The notices of one lane: whole messages without a stream, cut into frames to be sent and put together again."""

from __future__ import annotations

from collections import deque

from mesh.errors import ExhaustedError, ProtocolError
from mesh.framing import MORE, PAYLOAD_BYTES_MAX, FrameKind, encode_frame
from mesh.lanes import Lane
from mesh.mux_events import MESSAGE_BYTES_MAX, MuxConfig


class Notices:
    """A bounded queue out, and at most one incomplete message in."""

    def __init__(self, lane: Lane, config: MuxConfig) -> None:
        self._lane = lane
        self._config = config
        self._queue: deque[memoryview] = deque()
        self._arriving = bytearray()
        self.queued_bytes = 0

    def __bool__(self) -> bool:
        """Whether there is something to send."""
        return bool(self._queue)

    def put(self, payload: bytes) -> bool:
        """Queue a message; False when the queue is full, and nothing was queued."""
        if len(payload) > MESSAGE_BYTES_MAX:
            raise ExhaustedError(
                f"a message of {len(payload)} bytes", why=f"the limit is {MESSAGE_BYTES_MAX}"
            )
        full = len(self._queue) >= self._config.notices_max
        if full or self.queued_bytes + len(payload) > self._config.notice_bytes_max:
            return False
        self._queue.append(memoryview(payload))
        self.queued_bytes += len(payload)
        return True

    def next_frame(self) -> bytes:
        """The next frame to be sent; only when there is one."""
        view = self._queue.popleft()
        piece, rest = view[:PAYLOAD_BYTES_MAX], view[PAYLOAD_BYTES_MAX:]
        self.queued_bytes -= len(piece)
        if rest:
            self._queue.appendleft(rest)
        return encode_frame(FrameKind.NOTICE, piece, flags=self._lane | (MORE if rest else 0))

    def arrived(self, payload: bytes, flags: int) -> bytes | None:
        """The message that this frame completes, or None."""
        if len(self._arriving) + len(payload) > MESSAGE_BYTES_MAX:
            raise ProtocolError("a message without end", why=f"the limit is {MESSAGE_BYTES_MAX} bytes")
        if flags & MORE:
            self._arriving += payload
            return None
        if not self._arriving:
            return payload
        message = bytes(self._arriving) + payload
        self._arriving.clear()
        return message
