"""Many streams and notices over one link: a machine between frames and messages.

Three lanes, served strictly in order; within a lane notices first, then its streams in turn, one frame each. A frame
is at most 16 KiB and the shell takes little at a time, so a heartbeat waits for one small write, however much bulk
lies behind it.

Windows keep a slow reader's bytes with their sender. Each stream has one of 256 KiB, each lane one of 4 MiB for all
its streams together, *per lane* so that unread bulk cannot hold up a control call (fault N6). Credit is returned when
the reader has consumed. Notices have no window: they are handled as they arrive, so nothing of them is kept.

What goes out leaves by `take_frames`, what came in by `take_events`: two tasks of the shell drain them at their own
pace. All queues are bounded; a peer that makes one overflow has broken the protocol and loses the link.

Source: flow control as in HTTP/2 (RFC 9113 section 5.2); limits: yamux and libp2p (256 KiB, 256 streams).
"""

from __future__ import annotations

from collections import deque

from mesh.errors import ExhaustedError, ProtocolError
from mesh.framing import (
    END,
    LANE_BITS,
    MORE,
    OPEN_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Frame,
    FrameKind,
    encode_frame,
)
from mesh.keepalive import KeepAlive
from mesh.lanes import Lane
from mesh.machine import ASLEEP
from mesh.mux_events import (
    CloseWanted,
    LinkEnd,
    MuxConfig,
    MuxEvent,
    MuxStatistics,
    NoticeReceived,
    PeerRetired,
    ResetReason,
    StreamData,
    StreamOpened,
    StreamReset,
    StreamWritable,
)
from mesh.mux_state import OPEN_MARK, RESET_MARK, LaneState, StreamState


class Mux:
    """One side of one link.

    Args:
        config: See `MuxConfig`.
        dialled: This side opened the connection; its streams are odd, the other's even.
        now: Seconds on the machine's clock.
    """

    def __init__(self, config: MuxConfig, *, dialled: bool, now: float) -> None:
        self._config = config
        self._dialled = dialled
        self._next_stream = 1 if dialled else 2
        self._streams: dict[int, StreamState] = {}
        self._opened_by_peer = 0
        self._lanes = tuple(LaneState(lane, config) for lane in Lane)
        self._urgent: deque[bytes] = deque()
        self._pong: bytes | None = None
        self._events: list[MuxEvent] = []
        self.time = KeepAlive(config, now)
        self._unsent_opens = 0
        self._retired_here = False
        self._goaway_sent = False
        self._retired_there = False
        self._close_wanted = False

    # What the shell asks for.

    def open_stream(self, lane: Lane, header: bytes) -> int:
        """A new stream of ours; the header travels ahead of everything on it."""
        if len(header) > OPEN_BYTES_MAX:
            raise ExhaustedError(
                f"a stream header of {len(header)} bytes", why=f"the limit is {OPEN_BYTES_MAX}"
            )
        if self._retired_here or self._retired_there:
            raise AssertionError("no stream may be opened on a retired link")
        if len(self._streams) - self._opened_by_peer >= self._config.streams_max:
            raise ExhaustedError(
                "too many calls at once on one link", why=f"the limit is {self._config.streams_max}"
            )
        number = self._free_number()
        stream = StreamState(lane, self._config.stream_window_bytes)
        self._streams[number] = stream
        # The header takes its turn in the lane, so a bulk stream's opening never overtakes an urgent message, but
        # it needs no window: it is bounded by the number of streams.
        stream.queue.append((memoryview(header), OPEN_MARK))
        self._unsent_opens += 1
        self._schedule(number, stream)
        return number

    def send(self, number: int, payload: bytes, *, more: bool = False, end: bool = False) -> None:
        """Queue a message (or a piece of one, with `more`) on a stream; look at `queued_bytes` first."""
        stream = self._streams.get(number)
        if stream is None:
            return  # it was reset a moment ago; the event that says so is on its way to the caller
        if stream.send_ended:
            raise AssertionError("nothing may be sent after the end")
        view, position = memoryview(payload), 0
        while len(view) - position > PAYLOAD_BYTES_MAX:
            stream.queue.append((view[position : position + PAYLOAD_BYTES_MAX], MORE))
            position += PAYLOAD_BYTES_MAX
        stream.queue.append((view[position:], (MORE if more else 0) | (END if end else 0)))
        stream.queued_bytes += len(payload)
        stream.send_ended = end
        self._schedule(number, stream)

    def queued_bytes(self, number: int) -> int:
        """What was sent on the stream and has not left yet."""
        return stream.queued_bytes if (stream := self._streams.get(number)) else 0

    def watch_writable(self, number: int) -> None:
        """Have one `StreamWritable` when the queue of the stream is empty next."""
        if (stream := self._streams.get(number)) is not None:
            stream.watched = True

    def consumed(self, number: int, count: int) -> None:
        """The reader has done with that many bytes of the stream: the peer may send as many again."""
        stream = self._streams.get(number)
        if stream is None or count == 0:
            return
        stream.unread_bytes -= count
        if stream.unread_bytes < 0:
            raise AssertionError("more was consumed than had arrived")
        self._give_back(stream.lane, count)
        if stream.end_received:
            return
        stream.owed_bytes += count
        if stream.owed_bytes * 4 >= self._config.stream_window_bytes:
            self._urge(encode_frame(FrameKind.WINDOW, stream.owed_bytes.to_bytes(4, "big"), stream=number))
            stream.receive_window += stream.owed_bytes
            stream.owed_bytes = 0

    def reset(self, number: int, reason: ResetReason) -> None:
        """End a stream at once, both ways; what is queued on it is dropped. Unknown streams are over already."""
        if number in self._streams:
            self._urge(encode_frame(FrameKind.RESET, bytes([reason]), stream=number))
            self._forget(number)

    def finish(self, number: int) -> None:
        """End a stream once what is queued on it has left; what still arrives on it is dropped."""
        stream = self._streams.get(number)
        if stream is None:
            return
        if not stream.queue:
            self.reset(number, ResetReason.CANCELLED)
            return
        stream.discards = True
        stream.send_ended = True
        stream.queue.append((memoryview(b""), RESET_MARK))
        self._schedule(number, stream)
        self.consumed(number, stream.unread_bytes)

    def was_sent(self, number: int) -> bool:
        """Whether any frame of the stream has left; False means that the peer knows nothing of it."""
        stream = self._streams.get(number)
        return stream is None or not stream.queue or stream.queue[0][1] != OPEN_MARK

    def notice(self, lane: Lane, payload: bytes) -> bool:
        """Queue a message without an answer; False when the lane's queue is full, and nothing was queued."""
        return self._lanes[lane].notices.put(payload)

    def retire(self) -> None:
        """Open no more streams and say so; `CloseWanted` follows when both sides have and the last has ended."""
        if not self._retired_here:
            self._retired_here = True
            self._close_if_drained()

    @property
    def retiring(self) -> bool:
        """Either side has said GOAWAY."""
        return self._retired_here or self._retired_there

    def statistics(self) -> MuxStatistics:
        queued = sum(stream.queued_bytes for stream in self._streams.values())
        queued += sum(state.notices.queued_bytes for state in self._lanes)
        return MuxStatistics(len(self._streams), queued, self.time.rtt_s, self.retiring)

    # What the peer does.

    def receive(self, now: float, frame: Frame) -> None:
        """Take one frame.

        Raises:
            ProtocolError: The peer broke the protocol; the link must be closed.
        """
        self.time.heard(now)
        match frame.kind:
            case FrameKind.DATA:
                self._receive_data(frame)
            case FrameKind.NOTICE:
                self._receive_notice(frame)
            case FrameKind.OPEN:
                self._receive_open(frame)
            case FrameKind.WINDOW:
                self._receive_window(frame)
            case FrameKind.RESET:
                if frame.stream in self._streams:
                    self._forget(frame.stream)
                    self._events.append(StreamReset(frame.stream, frame.payload[0]))
            case FrameKind.PING:
                self._pong = frame.payload  # the newest is enough: a peer that floods gets one answer
            case FrameKind.PONG:
                self.time.answered(now, frame.payload)
            case FrameKind.GOAWAY:
                self._retired_there = True
                self._events.append(PeerRetired())
                self._close_if_drained()
            case _:
                raise ProtocolError(
                    "a frame out of place", why=f"{FrameKind(frame.kind).name} after the beginning"
                )

    def _receive_open(self, frame: Frame) -> None:
        number = frame.stream
        if (number % 2 == 1) is self._dialled:
            raise ProtocolError("a frame out of place", why="the peer opened a stream of our numbers")
        if number in self._streams:
            raise ProtocolError("a frame out of place", why="the peer opened a stream twice")
        if self._opened_by_peer >= self._config.streams_max:
            self._urge(encode_frame(FrameKind.RESET, bytes([ResetReason.LIMIT]), stream=number))
            return
        lane = Lane(frame.flags & LANE_BITS)
        self._streams[number] = StreamState(lane, self._config.stream_window_bytes)
        self._opened_by_peer += 1
        self._events.append(StreamOpened(number, lane, frame.payload))

    def _receive_data(self, frame: Frame) -> None:
        size = len(frame.payload)
        stream = self._streams.get(frame.stream)
        if stream is None:
            # Two innocent ways to get here: we reset or refused the stream, and this was under way already. It
            # used up its lane's window nevertheless.
            self._lanes[frame.flags & LANE_BITS].use(size)
            self._give_back(Lane(frame.flags & LANE_BITS), size)
            return
        if stream.end_received:
            raise ProtocolError("a frame out of place", why="bytes after the end of a stream")
        if frame.flags & LANE_BITS != stream.lane:
            raise ProtocolError("a frame out of place", why="a stream changed its lane")
        if size > stream.receive_window:
            raise ProtocolError("the peer sent more than it may", why="a stream's window was overrun")
        self._lanes[stream.lane].use(size)
        stream.receive_window -= size
        stream.unread_bytes += size
        stream.end_received = bool(frame.flags & END)
        if stream.discards:
            self.consumed(frame.stream, size)
        else:
            self._events.append(
                StreamData(frame.stream, frame.payload, bool(frame.flags & MORE), bool(frame.flags & END))
            )
        if stream.is_over:
            self._forget(frame.stream)

    def _receive_notice(self, frame: Frame) -> None:
        lane = Lane(frame.flags & LANE_BITS)
        message = self._lanes[lane].notices.arrived(frame.payload, frame.flags)
        if message is not None:
            self._events.append(NoticeReceived(lane, message))

    def _receive_window(self, frame: Frame) -> None:
        credit = int.from_bytes(frame.payload, "big")
        if frame.stream == 0:
            state = self._lanes[frame.flags & LANE_BITS]
            state.send_window += credit
            if state.send_window > self._config.lane_window_bytes:
                raise ProtocolError("the peer gave back more than was sent", why="a lane's window")
            blocked, state.blocked = state.blocked, {}
            for number in blocked:
                if (stream := self._streams.get(number)) is not None:
                    self._schedule(number, stream)
            return
        if (stream := self._streams.get(frame.stream)) is not None:
            stream.send_window += credit
            if stream.send_window > self._config.stream_window_bytes:
                raise ProtocolError("the peer gave back more than was sent", why="a stream's window")
            self._schedule(frame.stream, stream)

    # Time.

    def tick(self, now: float) -> None:
        """Ask a silent peer; call it dead when it stays silent; measure the round trip now and then."""
        if self._close_wanted:
            return
        payload = self.time.tick(now)
        if self.time.is_dead(now):
            self._want_close(LinkEnd.SILENT)
        elif payload is not None:
            self._urge(encode_frame(FrameKind.PING, payload))

    def next_deadline(self) -> float:
        return ASLEEP if self._close_wanted else self.time.next_deadline()

    # What is to be done.

    def take_events(self) -> tuple[MuxEvent, ...]:
        """What happened since the last call, in order."""
        events = tuple(self._events)
        self._events.clear()
        return events

    def take_frames(self, bytes_max: int) -> bytes:
        """What is to be sent next: urgent frames, then lane by lane, until `bytes_max` is reached.

        It overshoots by one frame at most. Call it again when these bytes have been handed to the kernel, not
        before: what becomes urgent meanwhile goes ahead of everything that was not taken yet.
        """
        parts: list[bytes] = []
        size = 0
        if self._pong is not None:
            parts.append(encode_frame(FrameKind.PONG, self._pong))
            self._pong = None
        while self._urgent:
            parts.append(self._urgent.popleft())
            size += len(parts[-1])
        while size < bytes_max:
            frame = self._next_lane_frame()
            if frame is None:
                break
            parts.append(frame)
            size += len(frame)
        if self._goaway_due():
            self._goaway_sent = True
            parts.append(encode_frame(FrameKind.GOAWAY))
        return b"".join(parts)

    def has_frames(self) -> bool:
        """Whether `take_frames` would return anything, but for streams that turn out to wait for their windows."""
        return bool(
            self._urgent
            or self._pong is not None
            or any(lane.notices or lane.turn for lane in self._lanes)
            or self._goaway_due()
        )

    def _goaway_due(self) -> bool:
        """It says that no OPEN follows, so it must not overtake one that still waits in its lane."""
        return self._retired_here and not self._goaway_sent and self._unsent_opens == 0

    def _next_lane_frame(self) -> bytes | None:
        for state in self._lanes:
            if state.notices:
                return state.notices.next_frame()
            while state.turn:
                number = state.turn.popleft()
                stream = self._streams.get(number)
                if stream is None:
                    continue
                stream.scheduled = False
                frame = self._stream_frame(number, stream, state)
                if frame is not None:
                    return frame
        return None

    def _stream_frame(self, number: int, stream: StreamState, state: LaneState) -> bytes | None:
        """The stream's next frame, cut to its windows; None when it has to wait for one of them."""
        if not stream.queue:
            return None
        view, flags = stream.queue[0]
        if flags == OPEN_MARK:
            stream.queue.popleft()
            self._unsent_opens -= 1
            self._schedule(number, stream)
            return encode_frame(FrameKind.OPEN, view, stream=number, flags=stream.lane)
        if flags == RESET_MARK:
            self._forget(number)
            return encode_frame(FrameKind.RESET, bytes([ResetReason.CANCELLED]), stream=number)
        room = min(len(view), stream.send_window, state.send_window)
        if room == 0 and len(view) > 0:
            if stream.send_window > 0:
                state.blocked[number] = None
            return None
        piece, rest = view[:room], view[room:]
        if rest:
            stream.queue[0] = (rest, flags)
            flags = MORE
        else:
            stream.queue.popleft()
        stream.send_window -= room
        state.send_window -= room
        stream.queued_bytes -= room
        frame = encode_frame(FrameKind.DATA, piece, stream=number, flags=flags | stream.lane)
        if flags & END:
            stream.end_sent = True
        if stream.queue:
            self._schedule(number, stream)
        elif stream.watched:
            stream.watched = False
            self._events.append(StreamWritable(number))
        if stream.is_over:
            self._forget(number)
        return frame

    # Book-keeping.

    def _free_number(self) -> int:
        while self._next_stream in self._streams:
            self._next_stream = self._next_stream + 2
        number = self._next_stream
        self._next_stream = number + 2 if number + 2 < 2**32 else (1 if self._dialled else 2)
        return number

    def _schedule(self, number: int, stream: StreamState) -> None:
        if stream.queue and not stream.scheduled:
            stream.scheduled = True
            self._lanes[stream.lane].turn.append(number)

    def _give_back(self, lane: Lane, count: int) -> None:
        if credit := self._lanes[lane].give_back(count):
            self._urge(encode_frame(FrameKind.WINDOW, credit.to_bytes(4, "big"), flags=lane))

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number)
        if stream.queue and stream.queue[0][1] == OPEN_MARK:
            self._unsent_opens -= 1
        if (number % 2 == 1) is not self._dialled:
            self._opened_by_peer -= 1
        self._give_back(stream.lane, stream.unread_bytes)
        self._close_if_drained()

    def _urge(self, frame: bytes) -> None:
        if len(self._urgent) >= self._config.urgent_frames_max:
            self._want_close(LinkEnd.FLOODED)
            return
        self._urgent.append(frame)

    def _close_if_drained(self) -> None:
        if self._retired_here and self._retired_there and not self._streams:
            self._want_close(LinkEnd.DRAINED)

    def _want_close(self, reason: LinkEnd) -> None:
        if not self._close_wanted:
            self._close_wanted = True
            self._events.append(CloseWanted(reason))
