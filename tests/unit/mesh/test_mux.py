"""The mux as a dialogue of two machines, without sockets: order of frames, windows, limits, time."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

import pytest

from mesh.errors import ExhaustedError, ProtocolError
from mesh.framing import (
    END,
    FRAME_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Frame,
    FrameDecoder,
    FrameKind,
    encode_frame,
)
from mesh.lanes import Lane
from mesh.mux import Mux
from mesh.mux_events import (
    MESSAGE_BYTES_MAX,
    CloseWanted,
    LinkEnd,
    MuxConfig,
    MuxEvent,
    NoticeReceived,
    PeerRetired,
    ResetReason,
    StreamData,
    StreamOpened,
    StreamReset,
    StreamWritable,
)

EVERYTHING = 1 << 30


def frames_of(raw: bytes) -> list[Frame]:
    return list(FrameDecoder().feed(raw))


def kinds(frames: Iterable[Frame]) -> list[str]:
    return [FrameKind(frame.kind).name for frame in frames]


class Pair:
    """Two muxes and the wire between them, moved by hand."""

    def __init__(self, config: MuxConfig | None = None) -> None:
        self.here = Mux(config or MuxConfig(), dialled=True, now=0.0)
        self.there = Mux(config or MuxConfig(), dialled=False, now=0.0)

    def carry(
        self, sender: Mux, receiver: Mux, now: float = 0.0, *, bytes_max: int = EVERYTHING
    ) -> list[Frame]:
        frames = frames_of(sender.take_frames(bytes_max))
        for frame in frames:
            receiver.receive(now, frame)
        return frames

    def settle(self, now: float = 0.0) -> None:
        while self.carry(self.here, self.there, now) or self.carry(self.there, self.here, now):
            pass

    def events(self) -> tuple[list[MuxEvent], list[MuxEvent]]:
        return list(self.here.take_events()), list(self.there.take_events())


def received(events: Iterable[MuxEvent], stream: int) -> bytes:
    return b"".join(
        event.payload for event in events if isinstance(event, StreamData) and event.stream == stream
    )


def test_a_heartbeat_goes_ahead_of_all_bulk_that_was_not_handed_to_the_kernel_yet() -> None:
    pair = Pair()
    bulk = pair.here.open_stream(Lane.BULK, b"bundle")
    pair.here.send(bulk, bytes(MESSAGE_BYTES_MAX))
    pair.here.notice(Lane.BULK, bytes(MESSAGE_BYTES_MAX))
    first = frames_of(pair.here.take_frames(32 * 1024))
    assert kinds(first)[0] == "NOTICE" and len(first) <= 3  # a little, then the kernel takes it
    control = pair.here.open_stream(Lane.CONTROL, b"call")
    pair.here.send(control, b"request", end=True)
    pair.here.notice(Lane.CONSENSUS, b"heartbeat")
    after = frames_of(pair.here.take_frames(32 * 1024))
    assert kinds(after)[:3] == ["NOTICE", "OPEN", "DATA"]
    assert [frame.payload for frame in after[:3]] == [b"heartbeat", b"call", b"request"]
    assert after[3].flags & 0x03 == Lane.BULK


def test_every_frame_fits_one_tls_record_and_a_large_message_is_cut() -> None:
    pair = Pair(MuxConfig(stream_window_bytes=EVERYTHING, lane_window_bytes=EVERYTHING))
    stream = pair.here.open_stream(Lane.BULK, b"")
    pair.here.send(stream, b"m" * 100_000, end=True)
    raw = pair.here.take_frames(EVERYTHING)
    frames = frames_of(raw)
    assert all(len(frame.payload) + 8 <= FRAME_BYTES_MAX for frame in frames)
    for frame in frames:
        pair.there.receive(0.0, frame)
    events = list(pair.there.take_events())
    assert received(events, stream) == b"m" * 100_000
    data = [event for event in events if isinstance(event, StreamData)]
    assert [event.more for event in data] == [True] * (len(data) - 1) + [False]
    assert [event.end for event in data] == [False] * (len(data) - 1) + [True]


def test_streams_of_a_lane_take_turns() -> None:
    pair = Pair()
    streams = [pair.here.open_stream(Lane.BULK, b"") for _ in range(3)]
    for stream in streams:
        pair.here.send(stream, bytes(3 * PAYLOAD_BYTES_MAX))
    order = [
        frame.stream for frame in frames_of(pair.here.take_frames(EVERYTHING)) if frame.kind == FrameKind.DATA
    ]
    assert order == streams * 3


def test_a_stream_stops_at_its_window_and_goes_on_when_its_reader_has_consumed() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.BULK, b"")
    other = pair.here.open_stream(Lane.BULK, b"")
    pair.here.send(stream, bytes(400 * 1024))
    pair.here.send(other, b"unhindered")
    pair.settle()
    _, events = pair.events()
    assert len(received(events, stream)) == 256 * 1024
    assert received(events, other) == b"unhindered"
    assert pair.here.queued_bytes(stream) == 144 * 1024
    pair.there.consumed(stream, 256 * 1024)
    pair.settle()
    _, events = pair.events()
    assert len(received(events, stream)) == 144 * 1024
    assert pair.here.queued_bytes(stream) == 0


def test_unread_bulk_fills_its_lane_and_no_other() -> None:
    pair = Pair()
    bulk = [pair.here.open_stream(Lane.BULK, b"") for _ in range(20)]
    for stream in bulk:
        pair.here.send(stream, bytes(256 * 1024))
    pair.settle()
    _, events = pair.events()
    assert sum(len(received(events, stream)) for stream in bulk) == 4 * 1024 * 1024
    control = pair.here.open_stream(Lane.CONTROL, b"")
    pair.here.send(control, b"passes")
    pair.settle()
    _, more = pair.events()
    assert received(more, control) == b"passes"
    # What one stream's reader consumes, the others of the lane may send, however little it is.
    pair.there.consumed(bulk[0], 1000)
    pair.settle()
    _, more = pair.events()
    assert sum(len(received(more, stream)) for stream in bulk) == 1000


def test_a_peer_that_overruns_a_window_loses_the_link() -> None:
    mux = Mux(MuxConfig(), dialled=False, now=0.0)
    mux.receive(0.0, Frame(FrameKind.OPEN, Lane.BULK, 1, b""))
    for _ in range(16):
        mux.receive(0.0, Frame(FrameKind.DATA, Lane.BULK, 1, bytes(PAYLOAD_BYTES_MAX)))
    with pytest.raises(ProtocolError, match="window"):
        mux.receive(0.0, Frame(FrameKind.DATA, Lane.BULK, 1, bytes(PAYLOAD_BYTES_MAX)))


def test_credit_that_was_never_used_up_is_refused() -> None:
    for stream in (0, 1):
        mux = Mux(MuxConfig(), dialled=True, now=0.0)
        mux.open_stream(Lane.BULK, b"")
        with pytest.raises(ProtocolError, match="gave back more"):
            mux.receive(0.0, Frame(FrameKind.WINDOW, Lane.BULK, stream, (1).to_bytes(4, "big")))


def test_a_lanes_window_survives_streams_that_were_reset_with_bytes_under_way() -> None:
    pair = Pair()
    for _ in range(100):  # 100 × 200 KiB would use up the lane five times over
        stream = pair.here.open_stream(Lane.BULK, b"")
        pair.here.send(stream, bytes(200 * 1024))
        frames = frames_of(pair.here.take_frames(EVERYTHING))
        for frame in frames[:5]:
            pair.there.receive(0.0, frame)
        pair.there.reset(stream, ResetReason.CANCELLED)
        for frame in frames[5:]:
            pair.there.receive(0.0, frame)
        pair.settle()
    assert pair.here.statistics().streams == pair.there.statistics().streams == 0
    pair.events()
    streams = [pair.here.open_stream(Lane.BULK, b"") for _ in range(17)]
    for stream in streams:
        pair.here.send(stream, bytes(256 * 1024))
    pair.settle()
    _, events = pair.events()
    # All of the window but what is owed, less than a quarter.
    arrived = sum(len(received(events, stream)) for stream in streams)
    assert 3 * 1024 * 1024 < arrived <= 4 * 1024 * 1024


def test_a_stream_is_forgotten_when_both_sides_have_ended() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.CONTROL, b"call")
    pair.here.send(stream, b"request", end=True)
    pair.settle()
    pair.there.send(stream, b"answer", end=True)
    pair.settle()
    here, there = pair.events()
    assert there == [StreamOpened(stream, Lane.CONTROL, b"call"), StreamData(stream, b"request", False, True)]
    assert here == [StreamData(stream, b"answer", False, True)]
    assert pair.here.statistics().streams == pair.there.statistics().streams == 0


def test_a_reset_drops_what_is_queued_and_is_told_to_the_other_side_once() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.BULK, b"")
    pair.here.send(stream, bytes(1024 * 1024))
    pair.settle()
    pair.events()
    pair.here.reset(stream, ResetReason.CANCELLED)
    pair.here.reset(stream, ResetReason.CANCELLED)
    assert kinds(pair.carry(pair.here, pair.there)) == ["RESET"]
    _, there = pair.events()
    assert there == [StreamReset(stream, ResetReason.CANCELLED)]
    pair.there.send(stream, b"too late")  # its user has not seen the event yet: no harm
    assert pair.there.take_frames(EVERYTHING) == b""


def test_finishing_lets_what_is_queued_leave_first() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.BULK, b"")
    pair.here.send(stream, b"last words", end=True)
    pair.here.finish(stream)
    assert kinds(pair.carry(pair.here, pair.there)) == ["OPEN", "DATA", "RESET"]
    _, there = pair.events()
    assert StreamData(stream, b"last words", False, True) in there
    assert pair.here.statistics().streams == 0


def test_what_arrives_for_a_stream_that_is_being_finished_is_dropped_and_credited() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.BULK, b"")
    pair.here.send(stream, bytes(300 * 1024), end=True)  # more than its window: it waits for the reader
    pair.settle()
    pair.here.finish(stream)
    pair.events()
    pair.there.send(stream, b"z" * (600 * 1024))
    pair.settle()
    here, _ = pair.events()
    assert received(here, stream) == b""
    assert pair.there.queued_bytes(stream) == 0
    pair.there.consumed(stream, 256 * 1024)
    pair.settle()
    assert pair.here.statistics().streams == pair.there.statistics().streams == 0


def test_a_stream_over_the_limit_is_refused_and_the_link_goes_on() -> None:
    config = MuxConfig(streams_max=2)
    pair = Pair(config)
    first, second = pair.here.open_stream(Lane.BULK, b""), pair.here.open_stream(Lane.BULK, b"")
    with pytest.raises(ExhaustedError):
        pair.here.open_stream(Lane.BULK, b"")
    for number in (first, second, second + 2):
        pair.there.receive(0.0, Frame(FrameKind.OPEN, Lane.BULK, number, b""))
    assert kinds(frames_of(pair.there.take_frames(EVERYTHING))) == ["RESET"]
    assert pair.there.statistics().streams == 2


def test_a_lane_takes_so_many_notices_and_no_more() -> None:
    mux = Mux(MuxConfig(notices_max=3, notice_bytes_max=100), dialled=True, now=0.0)
    assert [mux.notice(Lane.CONTROL, b"x") for _ in range(4)] == [True, True, True, False]
    assert mux.notice(Lane.CONSENSUS, b"x" * 60)
    assert not mux.notice(Lane.CONSENSUS, b"x" * 60)
    assert len(frames_of(mux.take_frames(EVERYTHING))) == 4
    assert mux.notice(Lane.CONTROL, b"x")


def test_a_large_notice_is_put_together_and_yields_to_a_more_urgent_lane() -> None:
    pair = Pair()
    pair.here.notice(Lane.BULK, b"b" * 50_000)
    pair.carry(pair.here, pair.there, bytes_max=20_000)
    pair.here.notice(Lane.CONSENSUS, b"c" * 50_000)
    pair.settle()
    _, there = pair.events()
    assert there == [NoticeReceived(Lane.CONSENSUS, b"c" * 50_000), NoticeReceived(Lane.BULK, b"b" * 50_000)]


def test_a_notice_without_end_is_refused() -> None:
    mux = Mux(MuxConfig(), dialled=True, now=0.0)
    with pytest.raises(ProtocolError, match="without end"):
        for _ in range(100):
            mux.receive(0.0, Frame(FrameKind.NOTICE, Lane.BULK | 0x10, 0, bytes(PAYLOAD_BYTES_MAX)))


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(FrameKind.OPEN, Lane.BULK, 2, b"")],  # our numbers
        [Frame(FrameKind.OPEN, Lane.BULK, 1, b""), Frame(FrameKind.OPEN, Lane.BULK, 1, b"")],
        [
            Frame(FrameKind.OPEN, Lane.BULK, 1, b""),
            Frame(FrameKind.DATA, Lane.BULK | END, 1, b""),
            Frame(FrameKind.DATA, Lane.BULK, 1, b"x"),
        ],
        [Frame(FrameKind.OPEN, Lane.BULK, 1, b""), Frame(FrameKind.DATA, Lane.CONTROL, 1, b"x")],
        [Frame(FrameKind.HELLO, 0, 0, b"x")],
    ],
)
def test_frames_out_of_place_are_the_peers_fault(frames: list[Frame]) -> None:
    mux = Mux(MuxConfig(), dialled=False, now=0.0)
    with pytest.raises(ProtocolError):
        for frame in frames:
            mux.receive(0.0, frame)


def test_a_peer_that_makes_us_answer_and_never_reads_loses_the_link() -> None:
    mux = Mux(MuxConfig(urgent_frames_max=10, streams_max=0), dialled=False, now=0.0)
    for number in range(1, 101, 2):
        mux.receive(0.0, Frame(FrameKind.OPEN, Lane.BULK, number, b""))
        mux.receive(0.0, Frame(FrameKind.PING, 0, 0, bytes(8)))
    assert mux.take_events() == (CloseWanted(LinkEnd.FLOODED),)
    assert len(frames_of(mux.take_frames(EVERYTHING))) == 11  # ten refusals and one pong


def test_the_round_trip_is_measured_by_pings_and_smoothed() -> None:
    pair = Pair()
    assert pair.here.time.rtt_s == inf
    pair.here.tick(0.0)
    pair.carry(pair.here, pair.there, 0.05)
    pair.carry(pair.there, pair.here, 0.1)
    assert pair.here.time.rtt_s == pytest.approx(0.1)
    assert pair.here.next_deadline() == pytest.approx(2.1)
    pair.here.tick(2.1)
    pair.carry(pair.here, pair.there, 2.1)
    pair.carry(pair.there, pair.here, 2.3)
    assert pair.here.time.rtt_s == pytest.approx(0.1 * 0.875 + 0.2 * 0.125)
    pair.here.receive(2.4, Frame(FrameKind.PONG, 0, 0, bytes(8)))  # one that nobody asked for
    assert pair.here.time.rtt_s == pytest.approx(0.1 * 0.875 + 0.2 * 0.125)


def test_a_silent_peer_is_asked_and_then_called_dead() -> None:
    mux = Mux(MuxConfig(), dialled=True, now=0.0)
    mux.tick(0.0)
    assert kinds(frames_of(mux.take_frames(EVERYTHING))) == ["PING"]
    for now in (2.0, 4.0, 5.9):
        mux.tick(now)
        assert mux.take_events() == ()
    assert mux.next_deadline() == 6.0
    mux.tick(6.0)
    assert mux.take_events() == (CloseWanted(LinkEnd.SILENT),)
    assert mux.next_deadline() == inf


def test_any_byte_keeps_the_link() -> None:
    mux = Mux(MuxConfig(), dialled=True, now=0.0)
    for second in range(100):
        mux.receive(float(second), Frame(FrameKind.NOTICE, Lane.CONSENSUS, 0, b"x"))
        mux.tick(float(second))
    assert [event for event in mux.take_events() if isinstance(event, CloseWanted)] == []


def test_a_node_that_slept_itself_does_not_call_its_peer_dead_for_it() -> None:
    mux = Mux(MuxConfig(), dialled=True, now=0.0)
    mux.tick(0.0)
    mux.take_frames(EVERYTHING)
    mux.tick(30.0)  # asked for 6.0
    assert mux.take_events() == ()
    assert kinds(frames_of(mux.take_frames(EVERYTHING))) == ["PING"]
    mux.tick(mux.next_deadline())
    assert mux.take_events() == (CloseWanted(LinkEnd.SILENT),)


def test_a_retired_link_drains_and_then_wants_to_be_closed_on_both_sides() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.CONTROL, b"running")
    pair.settle()
    pair.here.retire()
    pair.there.retire()
    pair.settle()
    here, there = pair.events()
    assert PeerRetired() in here and PeerRetired() in there
    assert not any(isinstance(event, CloseWanted) for event in here + there)
    with pytest.raises(AssertionError):
        pair.here.open_stream(Lane.CONTROL, b"new")
    pair.here.send(stream, b"", end=True)
    pair.there.send(stream, b"done", end=True)
    pair.settle()
    here, there = pair.events()
    assert here[-1] == there[-1] == CloseWanted(LinkEnd.DRAINED)


def test_a_goaway_never_overtakes_a_stream_that_was_opened_before_it() -> None:
    pair = Pair()
    pair.here.notice(Lane.CONTROL, bytes(100_000))
    cancelled, kept = pair.here.open_stream(Lane.BULK, b""), pair.here.open_stream(Lane.CONTROL, b"call")
    pair.here.send(kept, b"request", end=True)
    pair.here.retire()
    pair.there.retire()
    assert "GOAWAY" not in kinds(pair.carry(pair.here, pair.there, bytes_max=1))
    pair.here.reset(cancelled, ResetReason.CANCELLED)
    pair.settle()
    here, there = pair.events()
    opened = StreamOpened(kept, Lane.CONTROL, b"call")
    assert there.index(opened) < there.index(PeerRetired())
    assert not any(isinstance(event, CloseWanted) for event in here + there)


def test_whoever_asked_is_told_once_when_the_queue_is_empty() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.BULK, b"")
    pair.here.send(stream, bytes(300 * 1024))
    pair.here.watch_writable(stream)
    pair.settle()
    assert StreamWritable(stream) not in pair.events()[0]
    pair.there.consumed(stream, 200 * 1024)
    pair.settle()
    assert pair.events()[0].count(StreamWritable(stream)) == 1


def test_it_is_known_whether_anything_of_a_call_was_sent() -> None:
    pair = Pair()
    stream = pair.here.open_stream(Lane.CONTROL, b"")
    pair.here.send(stream, b"x", end=True)
    assert not pair.here.was_sent(stream)
    pair.here.take_frames(1)
    assert pair.here.was_sent(stream)


def test_the_same_inputs_give_the_same_bytes() -> None:
    def run() -> bytes:
        pair = Pair()
        sent = b""
        for number in range(10):
            stream = pair.here.open_stream(Lane(number % 3), b"h%d" % number)
            pair.here.send(stream, b"x" * number * 1000, end=True)
            pair.here.notice(Lane((number + 1) % 3), b"n" * number)
            sent += pair.here.take_frames(5000)
        return sent + pair.here.take_frames(EVERYTHING)

    assert run() == run()


def test_an_urgent_frame_is_not_counted_against_the_lanes() -> None:
    mux = Mux(MuxConfig(), dialled=True, now=0.0)
    mux.receive(0.0, Frame(FrameKind.PING, 0, 0, b"12345678"))
    mux.notice(Lane.BULK, b"x")
    assert mux.take_frames(EVERYTHING) == encode_frame(FrameKind.PONG, b"12345678") + encode_frame(
        FrameKind.NOTICE, b"x", flags=Lane.BULK
    )
