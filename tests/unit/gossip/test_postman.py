"""Packets: full but never over the limit, measured after sealing."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.dissemination import Dissemination
from gossip.members import Members
from gossip.messages import Ping, RecordAdvert, Rumour, decode_packet
from gossip.outbox import Outbox
from gossip.postman import Postman
from gossip.presence import Presence
from gossip.profiles import DATAGRAM_BYTES_MAX
from gossip.record import RecordBook
from gossip.seal import GossipKey, KeyRing, Seal
from tests.unit.gossip.network import id_of, public_key, sign_as, verify
from tests.unit.gossip.statements import a_claim, a_suspect

NAMES = [f"n{number}" for number in range(40)]


def packets(kinds: list[int], address_length: int) -> list[bytes]:
    """Sealed packets of a node that has all this to tell."""
    members = Members(id_of("a"), verify, random.Random(1))
    members.replace(0.0, {id_of(name): public_key(name) for name in ["a", *NAMES]})
    presence = Presence(id_of("a"), boot_counter=1, address="a:1", sign=sign_as("a"))
    records = RecordBook(id_of("a"), boot_counter=1, slow_facts_s=1.0, sign=sign_as("a"), verify=verify)
    rumours, outbox = Dissemination(accusers_max=4), Outbox()
    postman = Postman(members, presence, records, rumours, outbox)
    accused = a_suspect(NAMES[0], 1, NAMES[1], address="x" * address_length)
    members.apply(0.0, accused, wall_ms=0)
    for name, kind in zip(NAMES, kinds, strict=False):
        match kind:
            case 0:
                rumours.push(RecordAdvert(id_of(name), 2**30, 2**40))
            case 1:
                rumours.push(a_claim(name, 2**50, address="x" * address_length))
            case _:
                rumours.push(a_suspect(name, 2**50, NAMES[2], address="x" * address_length))
    seal = Seal(
        KeyRing((GossipKey(1, b"k" * 32),)), me=id_of("a"), boot_counter=1, boot_nonce=b"n", is_member=lambda _: True
    )
    for name in NAMES[:4]:
        member = members.get(id_of(name))
        assert member is not None
        postman.send(member, Ping(2**32, member.node_id, 2**50), source="s:1", introduce=True)
        postman.send(member, Rumour(), source="s:1")
    assert all(decode_packet(send.payload) for send in outbox.sends)
    return [seal.seal(0.0, send.payload) for send in outbox.sends]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=0, max_size=40), st.integers(1, 80))
def test_no_sealed_packet_is_over_the_limit(kinds: list[int], address_length: int) -> None:
    assert max(map(len, packets(kinds, address_length))) <= DATAGRAM_BYTES_MAX


def test_a_packet_with_much_to_tell_is_nearly_full() -> None:
    assert min(map(len, packets([0] * 40, 10))) > DATAGRAM_BYTES_MAX - 100
