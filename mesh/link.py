"""One link: a mux over a TLS stream, driven by three tasks.

The reader feeds what arrives to the mux and hands its events out; the writer takes a little from the mux at a time,
so that what is urgent goes ahead of all that was not taken; the third task keeps the mux's time, because the writer
may be stuck behind a peer that does not read, which is just when time matters.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from mesh.errors import ProtocolError, UpgradeNeeded
from mesh.framing import Frame, FrameKind, encode_frame
from mesh.hello import Greeted, Hello
from mesh.lanes import Lane
from mesh.last_word import LastWord, read_last_word
from mesh.link_streams import MuxStream
from mesh.mux import Mux
from mesh.mux_events import (
    CloseWanted,
    LinkEnd,
    MuxConfig,
    MuxStatistics,
    NoticeReceived,
    PeerRetired,
    StreamData,
    StreamOpened,
    StreamReset,
    StreamWritable,
)
from mesh.transports.stream import Stream

WRITE_BYTES = 32 * 1024
"""Taken from the mux at a time: what becomes urgent waits for this and what the kernel holds (`NOTSENT_LOWAT`)."""

_RECEIVE_BYTES = 64 * 1024
_CLOSE_S = 1.0

# Calls of ours at once on a link; together the mux's 256. Each lane has its own, or bulk would take the last one.
_STREAMS_OF_LANE = {Lane.CONSENSUS: 32, Lane.CONTROL: 96, Lane.BULK: 128}


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

    def take_last_word(self, link: Link, word: LastWord) -> None:
        """The peer has said why it closes the link."""

    def link_retired(self, link: Link) -> None:
        """The peer opens no more streams here, and we must not either."""


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
        self._last_word = b""  # ours: the last frame of the link
        self._questions: list[bytes] = []  # pings of `prove` that have not left yet
        self._proofs: dict[bytes, trio.Event] = {}

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

    def dismiss(self, frame: bytes, why: str) -> None:
        """`close`, with a last frame that says why (`mesh.last_word`), if the peer still takes it."""
        if self._over is None:
            self._last_word = frame
        self.close(why)

    async def prove(self, within_s: float) -> bool:
        """Whether the peer's process answers now; what it sent before the question proves nothing."""
        if self._over is not None:
            return False
        question = secrets.token_bytes(8)
        answered = self._proofs[question] = trio.Event()
        self._questions.append(question)
        self.wake()
        with trio.move_on_after(within_s):
            await answered.wait()
        del self._proofs[question]
        return answered.is_set() and self._over is None

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
                self._take_frame(trio.current_time(), frame)
            self._greeted.early.clear()
            self._hand_out()
            while True:
                received = await self._stream.receive_some(_RECEIVE_BYTES)
                if not received:
                    self._end(LinkOver(by_kernel=not self.mux.retiring, why="the peer closed the connection"))
                    return
                now = trio.current_time()
                for frame in self._greeted.decoder.feed(received):
                    self._take_frame(now, frame)
                self._hand_out()
                if self.mux.has_frames():
                    self.wake()
        except trio.BrokenResourceError as error:
            self._end(LinkOver(by_kernel=True, why=str(error)))
        except (ProtocolError, UpgradeNeeded) as error:
            self._end(LinkOver(by_kernel=False, why=str(error)))

    def _take_frame(self, now: float, frame: Frame) -> None:
        if frame.kind == FrameKind.LAST_WORD:
            self._its_user().take_last_word(self, read_last_word(frame.payload))
            self._end(LinkOver(by_kernel=False, why="the peer closed the link for good"))
            return
        if frame.kind == FrameKind.PONG and frame.payload in self._proofs:
            self._proofs[frame.payload].set()
        self.mux.receive(now, frame)

    async def _write(self) -> None:
        try:
            while True:
                self._woken = trio.Event()
                frames = self.mux.take_frames(WRITE_BYTES)
                if self._questions:
                    frames += b"".join(encode_frame(FrameKind.PING, question) for question in self._questions)
                    self._questions.clear()
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
            for proof in self._proofs.values():
                proof.set()  # nobody has to wait for an answer any more
            self._scope.cancel()

    async def _clean_up(self) -> None:
        why = self._over.why if self._over is not None else ""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.broke(None, f"the link is gone: {why}")
        with trio.move_on_after(_CLOSE_S, shield=True):
            if self._last_word:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(self._last_word)
            await self._stream.aclose()
