"""Sealed datagrams: who can open them, how often, and what is refused."""

from __future__ import annotations

import pytest

from gossip.seal import QUIET_S, ROTATION_GRACE_S, SEAL_OVERHEAD_BYTES, WINDOW_BITS, GossipKey, KeyRing, Seal
from mesh.errors import FailedError, ProtocolError
from tests.unit.gossip.network import id_of

OLD, NEW = GossipKey(1, b"o" * 32), GossipKey(2, b"n" * 32)
MEMBERS = {id_of(name) for name in "ab"}


def a_seal(name: str, *keys: GossipKey, boot: int = 1, nonce: bytes = b"n1") -> Seal:
    ring = KeyRing(keys or (OLD,))
    return Seal(ring, me=id_of(name), boot_counter=boot, boot_nonce=nonce, is_member=MEMBERS.__contains__)


def refused(seal: Seal, datagram: bytes, now: float = 0.0) -> str:
    with pytest.raises(ProtocolError) as caught:
        seal.open(now, datagram)
    return caught.value.stable_code


def test_what_one_seals_another_opens_once() -> None:
    datagram = a_seal("a").seal(0.0, b"hello")
    opener = a_seal("b")
    assert opener.open(0.0, datagram) == (id_of("a"), b"hello")
    assert refused(opener, datagram) == "gossip.replay"
    assert len(datagram) == len(b"hello") + SEAL_OVERHEAD_BYTES


def test_every_flipped_bit_is_noticed() -> None:
    datagram = a_seal("a").seal(0.0, b"hello")
    for index in range(len(datagram)):
        for bit in range(8):
            damaged = bytearray(datagram)
            damaged[index] ^= 1 << bit
            assert refused(a_seal("b"), bytes(damaged)).startswith("gossip.")


def test_a_cut_datagram_is_refused_at_every_length() -> None:
    datagram = a_seal("a").seal(0.0, b"hello")
    for length in range(len(datagram)):
        assert refused(a_seal("b"), datagram[:length]) == "gossip.tag"


def test_strangers_and_ones_own_echo_are_refused() -> None:
    assert refused(a_seal("b"), a_seal("z").seal(0.0, b"x")) == "gossip.sender"
    sender = a_seal("a")
    assert refused(sender, sender.seal(0.0, b"x")) == "gossip.sender"


def test_datagrams_in_any_order_within_the_window_open() -> None:
    sender, opener = a_seal("a"), a_seal("b")
    datagrams = [sender.seal(0.0, bytes([number])) for number in range(20)]
    order = [19, 3, 0, 18, 7]
    assert [opener.open(0.0, datagrams[number])[1][0] for number in order] == order
    assert all(refused(opener, datagrams[number]) == "gossip.replay" for number in order)


def test_the_window_ends_exactly_where_it_says() -> None:
    sender, opener = a_seal("a"), a_seal("b")
    datagrams = [sender.seal(0.0, b"x") for _ in range(WINDOW_BITS + 1)]
    opener.open(0.0, datagrams[WINDOW_BITS])
    opener.open(0.0, datagrams[1])
    assert refused(opener, datagrams[0]) == "gossip.replay"


def test_a_refused_datagram_leaves_the_window_as_it_was() -> None:
    sender, opener = a_seal("a"), a_seal("b")
    first = sender.seal(0.0, b"first")
    forged = bytearray(first)
    forged[-1] ^= 1
    refused(opener, bytes(forged))
    assert opener.open(0.0, first)[1] == b"first"


def test_all_keys_of_the_ring_open_and_dropped_ones_do_not() -> None:
    opener = a_seal("b", NEW, OLD)
    assert opener.open(0.0, a_seal("a", OLD).seal(0.0, b"x"))[1] == b"x"
    assert opener.open(0.0, a_seal("a", NEW, nonce=b"n2", boot=2).seal(0.0, b"y"))[1] == b"y"
    opener.set_ring(0.0, KeyRing((NEW,)))
    assert refused(opener, a_seal("a", OLD, boot=3).seal(0.0, b"z")) == "gossip.key"


def test_a_new_key_seals_only_when_the_others_had_time_to_learn_it() -> None:
    sender, behind = a_seal("a", OLD), a_seal("b", OLD)
    sender.set_ring(10.0, KeyRing((NEW, OLD)))
    assert behind.open(10.0, sender.seal(10.0, b"x"))[1] == b"x"
    late = 10.0 + ROTATION_GRACE_S
    assert refused(behind, sender.seal(late, b"y"), late) == "gossip.key"


def test_a_key_that_was_dropped_never_seals_again() -> None:
    sender = a_seal("a", OLD)
    sender.set_ring(10.0, KeyRing((NEW, OLD)))
    sender.set_ring(11.0, KeyRing((NEW,)))
    assert a_seal("b", NEW).open(11.0, sender.seal(11.0, b"x"))[1] == b"x"


def test_without_a_key_nothing_is_sealed() -> None:
    seal = Seal(KeyRing(()), me=id_of("a"), boot_counter=1, boot_nonce=b"n", is_member=MEMBERS.__contains__)
    with pytest.raises(FailedError):
        seal.seal(0.0, b"x")


def test_a_restart_is_heard_at_once_and_its_predecessor_no_more() -> None:
    before, after, opener = a_seal("a", boot=1), a_seal("a", boot=2, nonce=b"n2"), a_seal("b")
    early, late = before.seal(0.0, b"early"), before.seal(0.0, b"late")
    opener.open(0.0, early)
    opener.open(1.0, after.seal(1.0, b"after"))
    assert refused(opener, late, 2.0) == "gossip.replay"


def test_a_twin_with_the_same_counter_is_refused_and_counted() -> None:
    opener = a_seal("b")
    opener.open(0.0, a_seal("a", nonce=b"n1").seal(0.0, b"x"))
    assert refused(opener, a_seal("a", nonce=b"n2").seal(1.0, b"y"), 1.0) == "gossip.twin"
    assert opener.statistics().twins == 1


def test_a_node_with_an_emptied_disk_is_heard_after_its_former_life_fell_silent() -> None:
    opener = a_seal("b")
    opener.open(0.0, a_seal("a", boot=9).seal(0.0, b"x"))
    reborn = a_seal("a", boot=1, nonce=b"n2")
    assert refused(opener, reborn.seal(1.0, b"y"), 1.0) == "gossip.replay"
    assert opener.open(QUIET_S + 0.1, reborn.seal(1.0, b"z"))[1] == b"z"


def test_a_start_that_the_ledger_has_named_is_heard_at_once_whatever_its_counter_and_displaces_once() -> None:
    opener, former = a_seal("b"), a_seal("a", boot=5)
    heard = former.seal(0.0, b"x")
    opener.set_starts({id_of("a"): (5, b"n1")})
    assert opener.open(0.0, heard)[1] == b"x"
    reborn = a_seal("a", boot=1, nonce=b"n2")
    assert refused(opener, reborn.seal(1.0, b"y"), 1.0) == "gossip.replay"
    opener.set_starts({id_of("a"): (1, b"n2")})
    assert opener.open(1.0, reborn.seal(1.0, b"z"))[1] == b"z"
    opener.set_starts({id_of("a"): (1, b"n2")})
    assert opener.open(2.0, a_seal("a", boot=2, nonce=b"n3").seal(2.0, b"later"))[1] == b"later"
    assert refused(opener, reborn.seal(3.0, b"recorded"), 3.0) == "gossip.replay"


def test_no_two_starts_share_a_key_stream() -> None:
    """The counter is the nonce, so the keys must differ: equal plaintexts give unrelated ciphertexts."""
    one = a_seal("a", boot=1, nonce=b"n1").seal(0.0, b"x" * 32)[-48:]
    other = a_seal("a", boot=1, nonce=b"n2").seal(0.0, b"x" * 32)[-48:]
    third = a_seal("b", boot=1, nonce=b"n1").seal(0.0, b"x" * 32)[-48:]
    assert len({one, other, third}) == 3
