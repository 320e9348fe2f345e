"""Whatever bytes arrive, on a wire, from a disk or from an owner: each parser says its own errors and nothing else.

The messages' codecs are enumerated from the code: one that is added is fuzzed from its first day.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import random
import tempfile
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.segments import HEADER_BYTES, SegmentHeader, decode_header, encode_header
from daemon.client import _parsed, problem_to_error
from daemon.config import load_config
from daemon.home import Home, load_ports
from daemon.membership import MESH_FILE, MeshFile, load_mesh_file, save_mesh_file
from gossip.seal import GossipKey, KeyRing, Seal
from mesh.errors import FreecloudError, ProtocolError, UsageError
from mesh.http.http1 import RequestReader, ResponseReader
from mesh.http.limits import HttpLimits
from mesh.http.messages import HttpRefused, PeerGone, RequestHead, ResponseHead, Signal
from mesh.http.wsframes import WebSocketMachine
from mesh.identity import load_identity
from mesh.names import MeshId, node_id_of
from mesh.versioned import Codec
from scheduler.manifest import decode_manifest
from scheduler.runtimes import shim_wire

ROOT = Path(__file__).resolve().parents[2]


def codecs() -> dict[str, Codec]:
    """Every codec that stands in the code."""
    found: dict[str, Codec] = {}
    for package in ("mesh", "gossip", "consensus", "scheduler", "daemon"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if module.name.endswith("__main__"):
                continue
            values = vars(importlib.import_module(module.name)).items()
            found |= {f"{module.name}.{name}": value for name, value in values if isinstance(value, Codec)}
    return {name: codec for name, codec in found.items() if codec.kinds()}


CODECS = codecs()
KINDS = [(codec, kind, version) for codec in CODECS.values() for kind, version in codec.kinds().items()]

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=33),
    ),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=30,
)


@given(st.sampled_from(KINDS), st.lists(VALUES, max_size=24), st.integers(-1, 3))
@settings(max_examples=300, deadline=None)
def test_any_fields_of_any_kind_are_a_message_or_an_error_of_the_tree(
    known: tuple[Codec, str, int], fields: list[Any], off: int
) -> None:
    codec, kind, version = known
    raw = msgpack.packb([kind, version if off < 2 else version + off, fields], use_bin_type=True)
    try:
        message = codec.decode(raw)
    except FreecloudError:
        return
    assert codec.decode(codec.encode(message)) == message or "nan" in repr(message)


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error_of_the_tree(name: str, raw: bytes) -> None:
    try:
        CODECS[name].decode(raw)
    except FreecloudError:
        return


# --- HTTP and WebSocket -------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /a%2f?b HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET http://x/ HTTP/1.0",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 204",
        b"Host: x",
        b"Host: y:1",
        b"Content-Length: 3",
        b"Content-Length: 3, 3",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Connection: close, upgrade",
        b"Upgrade: websocket",
        b" folded",
        b"Expect: 100-continue",
        b"3;x=y",
        b"abc",
        b"0",
        b"ffffffffffffffff",
        b"",
    ]
)
STREAMS = st.lists(LINES | st.binary(max_size=12), max_size=14).flatmap(
    lambda lines: st.sampled_from([b"\r\n", b"\n", b"\r"]).map(lambda end: end.join(lines) + end)
)
LIMITS = HttpLimits()


def requests_of(pieces: list[bytes]) -> list[str]:
    """What a server makes of these bytes, in words."""
    reader, told = RequestReader(LIMITS), []
    body = bytearray()
    for piece in pieces:
        reader.receive(piece)
        while True:
            try:
                if told and told[-1] == "body":
                    part = reader.next_body()
                    if isinstance(part, bytes):
                        body += part
                        continue
                    if part is Signal.END:
                        told[-1] = f"read {bytes(body)!r}"
                        body.clear()
                        continue
                    break
                head = reader.next_request()
            except (HttpRefused, PeerGone) as error:
                return [*told, f"{type(error).__name__} {bytes(body)!r}"]
            if not isinstance(head, RequestHead):
                break
            told += [f"{head.method} {head.target!r}", "body"]
    return told


def test_one_empty_line_before_a_request_is_passed_over_and_no_second() -> None:
    lines = [b"\r\n", b"\r\n", b"\r\n"]
    assert requests_of(lines) == requests_of([b"".join(lines)]) == ["HttpRefused b''"]


@given(STREAMS, st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_requests_are_the_same_however_their_bytes_arrive(raw: bytes, rng: random.Random) -> None:
    pieces, at = [], 0
    while at < len(raw):
        size = rng.randint(1, 9)
        pieces.append(raw[at : at + size])
        at += size
    assert requests_of(pieces) == requests_of([raw])


@given(STREAMS, st.sampled_from(["GET", "HEAD", "POST", "CONNECT"]))
def test_any_bytes_of_an_upstream_are_a_response_or_refused(raw: bytes, method: str) -> None:
    reader = ResponseReader(LIMITS)
    reader.receive(raw)
    try:
        head = reader.next_response(method)
        while isinstance(head, ResponseHead) and 100 <= head.status < 200 and head.status != 101:
            head = reader.next_response(method)
        if isinstance(head, ResponseHead):
            while isinstance(reader.next_body(), bytes):
                pass
    except (HttpRefused, PeerGone):
        assert reader.failed


def frame(first: int, payload: bytes, masked: bool, length: int) -> bytes:
    head = bytes([first, (0x80 if masked else 0) | length])
    return head + (b"\0\0\0\0" if masked else b"") + payload


FRAMES = st.lists(
    st.builds(frame, st.integers(0, 255), st.binary(max_size=60), st.booleans(), st.integers(0, 127)), max_size=8
)


@given(FRAMES | st.lists(st.binary(max_size=40), max_size=8))
@settings(max_examples=300)
def test_any_frames_are_messages_or_a_close(frames: list[bytes]) -> None:
    machine = WebSocketMachine(200)
    for piece in [*frames, b""]:
        machine.receive(piece)
        for received in machine.take_received():
            assert not isinstance(received, str | bytes) or len(received) <= 200
        machine.take_outgoing()
    assert machine.over


# --- gossip -------------------------------------------------------------------------------------------------------

OURS, THEIRS = node_id_of(b"a" * 32), node_id_of(b"b" * 32)
RING = KeyRing((GossipKey(2, b"k" * 32), GossipKey(1, b"j" * 32)))


def seal_of(node: Any) -> Seal:
    return Seal(RING, me=node, boot_counter=1, boot_nonce=b"n" * 8, is_member=lambda other: other == THEIRS)


@given(st.binary(max_size=200))
def test_any_datagram_is_refused(raw: bytes) -> None:
    try:
        seal_of(OURS).open(0.0, raw)
    except ProtocolError:
        return
    raise AssertionError("it was opened")


@given(st.binary(max_size=60), st.data())
def test_a_changed_datagram_is_refused_and_a_whole_one_opens_once(plain: bytes, data: st.DataObject) -> None:
    whole, ours = seal_of(THEIRS).seal(0.0, plain), seal_of(OURS)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for bad in (changed, whole[:at]):
        try:
            ours.open(0.0, bad)
        except ProtocolError:
            continue
        raise AssertionError("it was opened")
    assert ours.open(0.0, whole) == (THEIRS, plain)
    try:
        ours.open(0.0, whole)
    except ProtocolError:
        return
    raise AssertionError("it was opened twice")


# --- files of the home, the owner's settings, the shim, the ready pipe ----------------------------------------------

HEADER = encode_header(SegmentHeader(7, b"s" * 16, b"t" * 16, 5))


@given(st.integers(0, len(HEADER) - 1), st.integers(0, 255), st.integers(0, HEADER_BYTES))
def test_a_changed_header_of_the_log_is_damage_or_the_same(at: int, byte: int, length: int) -> None:
    for page in (HEADER[:at] + bytes([byte]) + HEADER[at + 1 :], HEADER[:length]):
        try:
            assert decode_header(page, 7) == decode_header(HEADER, 7)
        except FreecloudError:
            continue


@given(st.binary(max_size=200))
def test_any_file_in_a_home_is_read_or_told_as_damaged(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.identity.mkdir()
        for path in (home.mesh, home.ports, home.identity / "node.pem"):
            path.write_bytes(raw)
        save_mesh_file(home.root / "good", MeshFile(MeshId("m"), 1, False, "n", (), ()))
        good = (home.root / "good").read_bytes()
        assert load_ports(home) == {} or b"mesh" in raw
        for content in (raw, good[: len(raw)], good + raw[:1]):
            home.mesh.write_bytes(content)
            try:
                known = load_mesh_file(home)
            except FreecloudError:
                continue
            assert content == good
            assert known is not None
        try:
            load_identity(home.identity, raw[:8])
        except FreecloudError as error:
            assert error.what


WORDS = ["name", "zone", "listen", "labels", "unsandboxed", "colour", "'a..b:1'", "[1]", "true", "1e999", "{", "[", "x"]
TOML = st.sampled_from([*WORDS, " = ", "\n", '"'])


@given(st.lists(TOML, max_size=12).map("".join) | st.text(max_size=60) | st.binary(max_size=60))
def test_any_settings_are_a_configuration_or_wrong_usage(text: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (Path(folder) / "freecloud.toml").write_bytes(raw)
        try:
            config = load_config({"home": folder}, {})
        except UsageError as error:
            assert len(str(error)) < 2_000
            return
        assert config.name


@given(st.text(max_size=60) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(json.dumps))
def test_any_text_to_a_shim_is_a_request_or_refused(text: str) -> None:
    try:
        assert isinstance(shim_wire.decode(text), dict)
    except ValueError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
PROBLEMS = st.dictionaries(
    st.sampled_from(["kind", "code", "title", "detail", "hint", "line", "column", "status"]), JSON, max_size=8
)


@given(PROBLEMS)
def test_any_problem_document_is_an_error_that_can_be_told(document: dict[str, Any]) -> None:
    error = problem_to_error(document)
    assert isinstance(str(error), str)
    assert all(note.replace(":", "").isdigit() for note in getattr(error, "__notes__", ()))


@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_of_a_daemon_is_an_object_or_a_protocol_error(raw: bytes) -> None:
    try:
        assert isinstance(_parsed(raw), dict)
    except ProtocolError:
        return


@given(st.binary(max_size=200))
def test_any_stored_manifest_is_one_or_an_error_of_the_tree(raw: bytes) -> None:
    try:
        decode_manifest(raw)
    except FreecloudError:
        return


def test_every_codec_of_the_code_is_fuzzed() -> None:
    assert len(CODECS) >= 10
    assert MESH_FILE in CODECS.values()
