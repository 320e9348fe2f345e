"""A stream of a link, as its user sees it: whole messages or raw bytes, both ways, until one side has done with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import trio

from mesh.lanes import Lane
from mesh.mux_events import MESSAGE_BYTES_MAX, ResetReason, StreamData

if TYPE_CHECKING:
    from mesh.link import Link

STREAM_QUEUE_BYTES = 128 * 1024
"""A sender of many messages waits while more than this is queued on its stream."""

ASSEMBLED_BYTES_MAX = 16 * 1024 * 1024
"""Incomplete messages that a link may hold together, over all its streams."""


class StreamBroken(trio.BrokenResourceError):
    """The stream ended before its time: reset by the peer for a reason, or gone with its link (reason None)."""

    def __init__(self, reason: int | None, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why


class MuxStream:
    """One stream of a link. Messages or raw bytes; one reader and one writer at a time."""

    def __init__(self, link: Link, number: int, lane: Lane, header: bytes) -> None:
        self._link = link
        self._number = number
        self.lane = lane
        self.header = header
        self._arrived: deque[tuple[bytes, bool]] = deque()  # (payload, more)
        self._end_arrived = False
        self._end_sent = False
        self._broken: tuple[int | None, str] | None = None
        self._closed = False
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self.on_broken: Callable[[], None] | None = None  # called once, when the stream breaks
        self.on_closed: Callable[[], None] | None = None  # called once, when its user has done with it

    async def send(self, payload: bytes, *, end: bool = False) -> None:
        """Queue one message, after waiting until little is queued before it."""
        await self._wait_writable()
        self._link.mux.send(self._number, payload, end=end)
        self._end_sent = end
        self._link.wake()

    async def receive(self, bytes_max: int) -> bytes | None:
        """The next whole message; None when the peer has ended.

        Raises:
            StreamBroken: There will be none; with the reason LIMIT when it was larger than `bytes_max`.
        """
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                piece = await self._next_piece()
                if piece is None:
                    if parts:
                        self._refuse(ResetReason.PROTOCOL)
                    return None
                payload, more = piece
                if not parts and not more:
                    if len(payload) > bytes_max:
                        self._refuse(ResetReason.LIMIT)
                    return payload
                parts.append(payload)
                size += len(payload)
                self._link.assembled_bytes += len(payload)
                if size > bytes_max or self._link.assembled_bytes > ASSEMBLED_BYTES_MAX:
                    self._refuse(ResetReason.LIMIT)
                if not more:
                    return b"".join(parts)
        finally:
            self._link.assembled_bytes -= size

    async def receive_some(self, bytes_max: int) -> bytes:
        """Raw bytes, message boundaries ignored; b"" when the peer has ended."""
        while True:
            piece = await self._next_piece(bytes_max)
            if piece is None:
                return b""
            if piece[0]:
                return piece[0]

    def end(self) -> None:
        """Nothing more follows from this side; the other may go on."""
        if not self._end_sent and not self._closed and self._broken is None:
            self._end_sent = True
            self._link.mux.send(self._number, b"", end=True)
            self._link.wake()

    def reset(self, reason: ResetReason) -> None:
        """End both ways at once. Does nothing to a stream that has ended already."""
        if not self._closed:
            self._close()
            self._link.mux.reset(self._number, reason)
            self._link.wake()

    def close(self) -> None:
        """Have done with the stream: what was sent still leaves, what still arrives is dropped."""
        if self._closed:
            return
        self._close()
        if not (self._end_sent and self._end_arrived):
            self._link.mux.finish(self._number)
            self._link.wake()

    def was_sent(self) -> bool:
        """Whether the peer may have seen anything of it."""
        return self._link.mux.was_sent(self._number)

    @property
    def broken(self) -> bool:
        """The peer has reset it, or its link is gone."""
        return self._broken is not None

    # Called by the link.

    def arrived(self, event: StreamData) -> None:
        if event.payload or not event.end:
            self._arrived.append((event.payload, event.more))
        self._end_arrived = event.end
        self._readable.unpark_all()

    def writable(self) -> None:
        self._writable.unpark_all()

    def broke(self, reason: int | None, why: str) -> None:
        if self._broken is None:
            self._broken = (reason, why)
            self._unpark()
            if self.on_broken is not None:
                self.on_broken()

    def _close(self) -> None:
        self._closed = True
        self._link.forget(self._number)
        self._unpark()
        if self.on_closed is not None:
            self.on_closed()

    def _unpark(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()

    async def _next_piece(self, bytes_max: int = MESSAGE_BYTES_MAX) -> tuple[bytes, bool] | None:
        while not self._arrived:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed here")
            if self._end_arrived:
                await trio.lowlevel.checkpoint()
                return None
            if self._broken is not None:
                raise StreamBroken(*self._broken)
            await self._readable.park()
        payload, more = self._arrived.popleft()
        if len(payload) > bytes_max:
            self._arrived.appendleft((payload[bytes_max:], more))
            payload, more = payload[:bytes_max], True
        self._link.mux.consumed(self._number, len(payload))
        if self._link.mux.has_frames():
            self._link.wake()
        return payload, more

    async def _wait_writable(self) -> None:
        while self._broken is None and not self._closed:
            if self._link.mux.queued_bytes(self._number) <= STREAM_QUEUE_BYTES:
                return
            self._link.mux.watch_writable(self._number)
            await self._writable.park()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed here")
        raise StreamBroken(*(self._broken or (None, "the stream broke")))

    def _refuse(self, reason: ResetReason) -> NoReturn:
        self.reset(reason)
        raise StreamBroken(reason, f"ended here (reason {reason})")
