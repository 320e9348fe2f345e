"""What comes out of a decoder is whole or an error of the tree; nothing else gets further."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.messages import (
    GOSSIP,
    Claim,
    ClaimBody,
    Ping,
    RecordAdvert,
    Rumour,
    Standing,
    WirePacket,
    decode_packet,
    first_incarnation,
)
from mesh.errors import ProtocolError, UpgradeNeeded
from tests.unit.gossip.network import id_of
from tests.unit.gossip.statements import a_claim, a_death, a_suspect

UPDATES = (a_claim("b", 1), a_suspect("b", 1, "c"), a_death("b", 1, "c"), RecordAdvert(id_of("b"), 1, 2))
WHOLE = GOSSIP.encode(
    WirePacket(1, 1, 1, Ping(1, id_of("a"), 0), tuple(GOSSIP.encode(update) for update in UPDATES))
)


def test_a_packet_comes_back_as_it_was() -> None:
    packet = decode_packet(WHOLE)
    assert packet.updates == UPDATES
    assert packet.body == Ping(1, id_of("a"), 0)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_packet_or_an_error_of_the_tree(index: int, value: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[index] = value
    try:
        decode_packet(bytes(damaged))
    except (ProtocolError, UpgradeNeeded):
        return


@given(st.binary(max_size=200))
def test_noise_is_an_error_of_the_tree(noise: bytes) -> None:
    with pytest.raises((ProtocolError, UpgradeNeeded)):
        decode_packet(noise)


def test_an_update_of_a_newer_program_is_left_out_and_the_rest_is_heard() -> None:
    future = GOSSIP.encode(UPDATES[0]).replace(b"claim", b"cl@im", 1)
    wire = WirePacket(1, 1, 1, Rumour(), (future, GOSSIP.encode(UPDATES[3])))
    assert decode_packet(GOSSIP.encode(wire)).updates == (UPDATES[3],)


def test_a_message_that_is_no_update_is_left_out() -> None:
    wire = WirePacket(1, 1, 1, Rumour(), (GOSSIP.encode(Ping(1, id_of("a"), 0)),))
    assert decode_packet(GOSSIP.encode(wire)).updates == ()


@pytest.mark.parametrize("incarnation", [0, -1, 2**62])
def test_a_claim_at_an_impossible_incarnation_cannot_be_made(incarnation: int) -> None:
    body = ClaimBody(id_of("b"), incarnation, Standing.HERE, 0, "b:1")
    with pytest.raises(ValueError, match="incarnation"):
        Claim(body, b"s" * 64)


def test_every_start_begins_above_all_of_the_one_before() -> None:
    starts = [first_incarnation(counter) for counter in (1, 2, 3, 2**32)]
    assert starts == sorted(starts)
    assert all(later - earlier >= 2**24 for earlier, later in itertools.pairwise(starts))
