"""Whatever bytes arrive: the mesh's parsers raise their own errors and nothing else, and hold no more than they may."""

from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.errors import FreecloudError, InviteRefused, ProtocolError
from mesh.framing import FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX, Frame, FrameDecoder, FrameKind, encode_frame
from mesh.hello import LINK
from mesh.identity import certificate_public_key
from mesh.invite import InvitePin, InviteToken, decode_token, encode_token
from mesh.lanes import Lane
from mesh.mux import Mux
from mesh.mux_events import MuxConfig, NoticeReceived, StreamData
from mesh.names import MeshId
from mesh.rpc import RPC

TOKENS = st.builds(
    InviteToken,
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map(MeshId),
    st.text(alphabet="0123456789abcdef", min_size=1, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.lists(
        st.builds(
            InvitePin,
            st.binary(min_size=32, max_size=32),
            st.binary(min_size=32, max_size=32),
            st.lists(st.text(max_size=20), min_size=1, max_size=2).map(tuple),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)

FRAMES = st.one_of(
    st.builds(
        lambda kind, flags, stream, payload: encode_frame(kind, payload, stream=stream, flags=flags),
        st.sampled_from([FrameKind.OPEN, FrameKind.DATA, FrameKind.NOTICE]),
        st.sampled_from([0, 1, 2, 0x10, 0x20, 0x12, 0x22]),
        st.integers(0, 6),
        st.binary(max_size=40),
    ),
    st.builds(
        lambda kind, stream, payload: encode_frame(kind, payload, stream=stream),
        st.sampled_from(
            [FrameKind.RESET, FrameKind.WINDOW, FrameKind.PING, FrameKind.PONG, FrameKind.GOAWAY]
        ),
        st.integers(0, 6),
        st.one_of(st.binary(min_size=1, max_size=1), st.binary(min_size=4, max_size=8), st.just(b"")),
    ),
)


@given(TOKENS)
def test_every_token_comes_back(token: InviteToken) -> None:
    assert decode_token(encode_token(token)) == token


@given(TOKENS, st.data())
def test_every_changed_token_is_refused(token: InviteToken, data: st.DataObject) -> None:
    text = encode_token(token)
    position = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters().filter(lambda other: other != text[position]))
    try:
        decode_token(text[:position] + character + text[position + 1 :])
    except InviteRefused:
        return
    raise AssertionError(f"character {position} may be anything")


@given(st.one_of(st.text(max_size=1200), st.text(max_size=200).map(lambda text: "fc1_" + text)))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    try:
        decode_token(text)
    except InviteRefused as error:
        assert error.stable_code in ("invite.damaged", "invite.truncated", "invite.version")


@given(st.lists(FRAMES, max_size=20), st.randoms(use_true_random=False))
def test_frames_are_the_same_however_their_bytes_arrive(raw: list[bytes], rng: random.Random) -> None:
    def decode(pieces: list[bytes]) -> tuple[list[Frame], str]:
        decoder, frames = FrameDecoder(), []
        try:
            for piece in pieces:
                frames.extend(decoder.feed(piece))
                assert len(decoder.remainder()) < FRAME_BYTES_MAX
        except ProtocolError as error:
            return frames, str(error)
        return frames, ""

    whole = b"".join(raw)
    pieces, position = [], 0
    while position < len(whole):
        size = rng.randint(1, 30)
        pieces.append(whole[position : position + size])
        position += size
    expected = decode([whole])
    assert decode(pieces) == expected
    assert decode([whole[index : index + 1] for index in range(len(whole))]) == expected


@given(st.binary(max_size=2000))
@example(b"\x03\x00\x00\x00\x00\x01\xff\xff")
def test_a_decoder_holds_at_most_one_frame_of_anything(raw: bytes) -> None:
    decoder = FrameDecoder()
    try:
        for frame in decoder.feed(raw):
            assert len(frame.payload) <= PAYLOAD_BYTES_MAX
    except ProtocolError:
        return
    assert len(decoder.remainder()) < FRAME_BYTES_MAX


@given(st.lists(FRAMES, max_size=60), st.booleans())
def test_a_mux_takes_any_frames_or_says_that_the_protocol_was_broken(raw: list[bytes], dialled: bool) -> None:
    mux = Mux(MuxConfig(urgent_frames_max=20), dialled=dialled, now=0.0)
    if dialled:
        mux.open_stream(Lane.CONTROL, b"ours")
    try:
        for frame in FrameDecoder().feed(b"".join(raw)):
            mux.receive(1.0, frame)
            mux.tick(1.0)
            assert mux.statistics().streams <= 257
    except ProtocolError:
        return
    mux.take_events()
    for frame in FrameDecoder().feed(mux.take_frames(1 << 20)):
        assert frame.kind in set(FrameKind)


@given(st.data())
@settings(max_examples=60)
def test_whatever_two_muxes_do_every_message_arrives_once_and_in_order(data: st.DataObject) -> None:
    """Small windows, small writes, readers that consume when they like: nothing is lost, doubled or stuck."""
    config = MuxConfig(stream_window_bytes=4096, lane_window_bytes=10_000)
    ends = (Mux(config, dialled=True, now=0.0), Mux(config, dialled=False, now=0.0))
    sent: dict[int, bytes] = {}
    notices: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 6))):
        stream = ends[0].open_stream(Lane(data.draw(st.integers(0, 2))), b"")
        sent[stream] = b""
    for number in range(data.draw(st.integers(1, 20))):
        stream = data.draw(st.sampled_from(sorted(sent)))
        payload = bytes([number]) * data.draw(st.integers(0, 9000))
        ends[0].send(stream, payload)
        sent[stream] += payload
        notices.append(payload + b"!")
        assert ends[0].notice(Lane.CONTROL, notices[-1])
    arrived = dict.fromkeys(sent, b"")
    unread = dict.fromkeys(sent, 0)
    heard: list[bytes] = []
    decoders = (FrameDecoder(), FrameDecoder())
    idle = 0
    while idle < 3:
        moved = False
        for sender, receiver, decoder in ((ends[0], ends[1], decoders[0]), (ends[1], ends[0], decoders[1])):
            for frame in decoder.feed(sender.take_frames(data.draw(st.sampled_from([1, 3000, 50_000])))):
                receiver.receive(0.0, frame)
                moved = True
        for event in ends[1].take_events():
            if isinstance(event, StreamData):
                arrived[event.stream] += event.payload
                unread[event.stream] += len(event.payload)
                assert unread[event.stream] <= config.stream_window_bytes
            elif isinstance(event, NoticeReceived):
                heard.append(event.payload)
        ends[0].take_events()
        for stream, count in unread.items():
            taken = count if idle else data.draw(st.integers(0, count))
            ends[1].consumed(stream, taken)
            unread[stream] -= taken
            moved = moved or taken > 0
        idle = 0 if moved else idle + 1
    assert arrived == sent
    assert heard == notices


@given(st.binary(max_size=600))
def test_any_bytes_are_a_certificate_or_a_protocol_error(raw: bytes) -> None:
    try:
        key = certificate_public_key(raw)
    except ProtocolError:
        return
    assert len(key) == 32


@given(st.binary(max_size=300))
def test_any_header_of_a_stream_is_a_message_or_an_error_of_the_tree(raw: bytes) -> None:
    for codec in (RPC, LINK):
        try:
            codec.decode(raw)
        except FreecloudError:
            continue
