"""One link: a mux over a TLS stream, driven by three tasks; and a stream of it, as its user sees it.

The reader feeds what arrives to the mux and hands its events out; the writer takes a little from the mux at a time,
so that what is urgent goes ahead of all that was not taken; the third task keeps the mux's time, because the writer
may be stuck behind a peer that does not read, which is just when time matters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

import trio

from mesh.errors import ProtocolError
from mesh.hello import Greeted, Hello
from mesh.lanes import Lane
from mesh.mux import Mux
from mesh.mux_events import (
    MESSAGE_BYTES_MAX,
    CloseWanted,
    LinkEnd,
    MuxConfig,
    MuxStatistics,
    NoticeReceived,
    PeerRetired,
    ResetReason,
    StreamData,
    StreamOpened,
    StreamReset,
    StreamWritable,
)
from mesh.transports.stream import Stream

WRITE_BYTES = 32 * 1024
"""Taken from the mux at a time: what becomes urgent waits for this and what the kernel holds (`NOTSENT_LOWAT`)."""

STREAM_QUEUE_BYTES = 128 * 1024
"""A sender of many messages waits while more than this is queued on its stream."""

ASSEMBLED_BYTES_MAX = 16 * 1024 * 1024
"""Incomplete messages that a link may hold together, over all its streams."""

_RECEIVE_BYTES = 64 * 1024
_CLOSE_S = 1.0

# Calls of ours at once on a link; together the mux's 256. Each lane has its own, or bulk would take the last one.
_STREAMS_OF_LANE = {Lane.CONSENSUS: 32, Lane.CONTROL: 96, Lane.BULK: 128}


class StreamBroken(trio.BrokenResourceError):
    """The stream ended before its time: reset by the peer for a reason, or gone with its link (reason None)."""

    def __init__(self, reason: int | None, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why


@dataclass(frozen=True, slots=True)
class LinkOver:
    """How a link ended. `by_kernel`: the peer's kernel closed it (FIN or RST), so its process is likely gone."""

    by_kernel: bool
    why: str


class LinkUser(Protocol):
    """Who answers what the peer asks on a link."""

    async def serve_stream(self, link: Link, stream: MuxStream) -> None:
        """Answer a stream that the peer opened; cancelled when the link ends."""

    def take_notice(self, link: Link, lane: Lane, payload: bytes) -> None:
        """Handle a notice at once."""

    def link_retired(self, link: Link) -> None:
        """The peer opens no more streams here, and we must not either."""


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


class Link:
    """One authenticated connection to one member, from the exchange of hellos to its end.

    Args:
        stream: The TLS stream, after its handshake.
        certificate: What the peer showed, found in the trust store.
        greeted: What the exchange of hellos left.
        dialled: Whether this side opened the connection.
    """

    def __init__(
        self, stream: Stream, *, certificate: bytes, greeted: Greeted, dialled: bool, config: MuxConfig
    ) -> None:
        self.hello: Hello = greeted.hello
        self.certificate = certificate
        self.dialled = dialled
        self.opened_at = trio.current_time()
        self.mux = Mux(config, dialled=dialled, now=self.opened_at)
        self.assembled_bytes = 0
        self._slots = {lane: trio.Semaphore(count) for lane, count in _STREAMS_OF_LANE.items()}
        self._stream = stream
        self._greeted = greeted
        self._keepalive_s = config.keepalive_s
        self._streams: dict[int, MuxStream] = {}
        self._woken = trio.Event()
        self._parked = False  # the writer waits to be woken, and has not been
        self._owes = False  # to the stream: the rest of what it took at once
        self._scope = trio.CancelScope()
        self._over: LinkOver | None = None
        self._user: LinkUser | None = None
        self._nursery: trio.Nursery | None = None
        self._closing = False

    @property
    def open(self) -> bool:
        """Whether calls may be made on it."""
        return self._over is None and not self.mux.retiring

    async def run(self, user: LinkUser) -> LinkOver:
        """Carry the link until it ends. Errors of handlers that are not ours to judge go on to the caller."""
        self._user = user
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_time)
        finally:
            if self._over is None:
                self._over = LinkOver(by_kernel=False, why="this node is stopping")
            await self._clean_up()
        return self._over

    def acquire(self, lane: Lane) -> Awaitable[None]:
        """Wait for the right to have one more call on this lane; `release` gives it back."""
        return self._slots[lane].acquire()

    def release(self, lane: Lane) -> None:
        self._slots[lane].release()

    def open_stream(self, lane: Lane, header: bytes) -> MuxStream:
        """A new stream of ours. The link has to be `open`."""
        number = self.mux.open_stream(lane, header)
        stream = MuxStream(self, number, lane, header)
        self._streams[number] = stream
        self.wake()
        return stream

    def notify(self, lane: Lane, payload: bytes) -> bool:
        """Queue a notice; False when the link is ending or the lane's queue is full."""
        if not self.open or not self.mux.notice(lane, payload):
            return False
        if self._parked:
            self._write_at_once()
        else:
            self.wake()
        return True

    def close(self, why: str) -> None:
        """End it at once; streams break, handlers are cancelled."""
        self._end(LinkOver(by_kernel=False, why=why))

    def retire(self) -> None:
        """Let running calls finish and then close; for a link that another has replaced."""
        self.mux.retire()
        self._hand_out()
        self.wake()

    def wake(self) -> None:
        """Have the writer look at the mux again."""
        self._parked = False
        self._woken.set()

    def forget(self, number: int) -> None:
        """The stream's user has done with it."""
        self._streams.pop(number, None)

    def statistics(self) -> MuxStatistics:
        return self.mux.statistics()

    async def _read(self) -> None:
        try:
            for frame in self._greeted.early:
                self.mux.receive(trio.current_time(), frame)
            self._greeted.early.clear()
            self._hand_out()
            while True:
                received = await self._stream.receive_some(_RECEIVE_BYTES)
                if not received:
                    self._end(LinkOver(by_kernel=not self.mux.retiring, why="the peer closed the connection"))
                    return
                now = trio.current_time()
                for frame in self._greeted.decoder.feed(received):
                    self.mux.receive(now, frame)
                self._hand_out()
                if self.mux.has_frames():
                    self.wake()
        except trio.BrokenResourceError as error:
            self._end(LinkOver(by_kernel=True, why=str(error)))
        except ProtocolError as error:
            self._end(LinkOver(by_kernel=False, why=str(error)))

    async def _write(self) -> None:
        try:
            while True:
                self._woken = trio.Event()
                frames = self.mux.take_frames(WRITE_BYTES)
                if frames or self._owes:
                    self._owes = False
                    await self._stream.send_all(frames)
                    self._hand_out()
                elif self._closing:
                    self._end(LinkOver(by_kernel=False, why="replaced by another link"))
                    return
                else:
                    self._parked = True
                    await self._woken.wait()
        except trio.BrokenResourceError:
            # The peer has closed its end. What it sent before, answers perhaps, is still to be read: the reader
            # meets the end of it and says so; were it never to, the silence would.
            return

    def _write_at_once(self) -> None:
        """What a writer would write that was woken for this alone: a heartbeat saves two turns of the loop.

        It is at rest, so nothing but this notice is ready. The next one finds it woken, if this one didn't leave whole.
        """
        if not self._stream.try_send(self.mux.take_frames(WRITE_BYTES)):
            self._owes = True
            self.wake()

    async def _keep_time(self) -> None:
        while True:
            # A pong brings the next ping nearer while this waits, hence never longer than one interval.
            await trio.sleep_until(min(self.mux.next_deadline(), trio.current_time() + self._keepalive_s))
            self.mux.tick(trio.current_time())
            self._hand_out()
            if self.mux.has_frames():
                self.wake()

    def _hand_out(self) -> None:
        for event in self.mux.take_events():
            match event:
                case StreamData():
                    if (stream := self._streams.get(event.stream)) is not None:
                        stream.arrived(event)
                case NoticeReceived():
                    self._its_user().take_notice(self, event.lane, event.payload)
                case StreamOpened():
                    self._serve(event)
                case StreamWritable():
                    if (stream := self._streams.get(event.stream)) is not None:
                        stream.writable()
                case StreamReset():
                    if (stream := self._streams.pop(event.stream, None)) is not None:
                        stream.broke(event.reason, f"the peer ended the stream (reason {event.reason})")
                case PeerRetired():
                    self._its_user().link_retired(self)
                case CloseWanted(reason=LinkEnd.DRAINED):
                    self._closing = True
                    self.wake()
                case CloseWanted():
                    self._end(LinkOver(by_kernel=False, why=f"the peer is {event.reason.value}"))

    def _serve(self, event: StreamOpened) -> None:
        if self._nursery is None:
            raise AssertionError("frames are read only while the link runs")
        stream = MuxStream(self, event.stream, event.lane, event.header)
        self._streams[event.stream] = stream
        self._nursery.start_soon(self._its_user().serve_stream, self, stream)

    def _its_user(self) -> LinkUser:
        if self._user is None:
            raise AssertionError("frames are read only while the link runs")
        return self._user

    def _end(self, over: LinkOver) -> None:
        if self._over is None:
            self._over = over
            self._scope.cancel()

    async def _clean_up(self) -> None:
        why = self._over.why if self._over is not None else ""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.broke(None, f"the link is gone: {why}")
        with trio.move_on_after(_CLOSE_S, shield=True):
            await self._stream.aclose()
