"""The codec: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import Enum

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ProtocolError, UpgradeNeeded
from mesh.versioned import Codec, Limits

CODEC = Codec(Limits(total_bytes_max=4096, text_bytes_max=100, bytes_max=1000, items_max=50))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Part:
    size: int
    colour: Colour


@CODEC.message("test.leaf")
@dataclass(frozen=True, slots=True)
class Leaf:
    text: str


@CODEC.message("test.stem", version=2, upgrades={1: lambda fields: [*fields, None]})
@dataclass(frozen=True, slots=True)
class Stem:
    parts: tuple[Part, ...]
    pair: tuple[str, bytes]
    members: frozenset[str]
    child: Leaf | Stem | None
    added: int | None


def stem(child: Leaf | Stem | None = None) -> Stem:
    return Stem((Part(1, Colour.RED),), ("a", b"b"), frozenset({"y", "x"}), child, 7)


@given(st.text(max_size=20), st.integers(-(2**63), 2**63 - 1))
def test_what_is_encoded_decodes_to_an_equal_value(text: str, size: int) -> None:
    whole = Stem((Part(size, Colour.BLUE),), (text, b""), frozenset({text}), Leaf(text), None)
    assert CODEC.decode(CODEC.encode(whole), Stem) == whole


def test_equal_values_have_equal_bytes() -> None:
    assert CODEC.encode(stem(stem(Leaf("z")))) == CODEC.encode(stem(stem(Leaf("z"))))


def test_an_older_version_is_upgraded_and_a_newer_one_refused() -> None:
    old = msgpack.packb(["test.stem", 1, [[], ["a", b"b"], [], None]])
    assert CODEC.decode(old, Stem).added is None
    newer = msgpack.packb(["test.stem", 3, []])
    with pytest.raises(UpgradeNeeded):
        CODEC.decode(newer)


def test_an_unknown_kind_asks_for_an_upgrade() -> None:
    with pytest.raises(UpgradeNeeded):
        CODEC.decode(msgpack.packb(["test.flower", 1, []]))


@pytest.mark.parametrize(
    "raw",
    [
        ["test.leaf", 1, [7]],
        ["test.leaf", 1, []],
        ["test.leaf", 1, ["a", "b"]],
        ["test.leaf", True, ["a"]],
        ["test.leaf", 1, "a"],
        ["test.stem", 2, [[[True, "red"]], ["a", b"b"], [], None, None]],
        ["test.stem", 2, [[[1, "green"]], ["a", b"b"], [], None, None]],
        ["test.stem", 2, [[], ["a"], [], None, None]],
        ["test.stem", 2, [[], ["a", b"b"], [], ["test.stem", 2, 3], None]],
        [],
        None,
        {"a": 1},
        ["test.leaf", 1, ["x" * 101]],
        ["test.leaf", 1, [["x"] * 51]],
    ],
)
def test_fields_of_a_wrong_shape_are_refused(raw: object) -> None:
    with pytest.raises(ProtocolError):
        CODEC.decode(msgpack.packb(raw))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_do_anything_but_refuse(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError, UpgradeNeeded):
        CODEC.decode(payload)


def test_deep_nesting_is_refused_not_overflowed() -> None:
    with pytest.raises(ProtocolError):
        CODEC.decode(b"\x91" * 4000)
