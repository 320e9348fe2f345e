"""What is told, how often, and within which budget."""

from __future__ import annotations

import pytest

from gossip.dissemination import Dissemination, transmissions_max
from gossip.messages import GOSSIP, UPDATE_OVERHEAD_BYTES, RecordAdvert
from tests.unit.gossip.network import id_of
from tests.unit.gossip.statements import a_claim, a_death, a_suspect


@pytest.mark.parametrize(("members", "times"), [(1, 4), (5, 4), (9, 4), (10, 8), (99, 8), (1000, 16)])
def test_transmissions_grow_with_the_logarithm(members: int, times: int) -> None:
    assert transmissions_max(members, 4) == times


def test_an_update_is_sent_so_often_and_no_more() -> None:
    rumours = Dissemination(accusers_max=4)
    rumours.push(a_claim("b", 1))
    sent = [len(rumours.take(1000, transmissions=3)) for _ in range(5)]
    assert sent == [1, 1, 1, 0, 0]


def test_the_least_told_goes_first_and_the_newest_among_equals() -> None:
    rumours = Dissemination(accusers_max=4)
    one, two, three = (a_claim(name, 1) for name in "bcd")
    room = len(GOSSIP.encode(one)) + UPDATE_OVERHEAD_BYTES
    rumours.push(one)
    rumours.take(room, transmissions=9)
    rumours.push(two)
    rumours.push(three)
    order = [GOSSIP.decode(rumours.take(room, transmissions=9)[0]) for _ in range(3)]
    assert order == [three, two, three]


def test_what_does_not_fit_waits_and_smaller_updates_go() -> None:
    rumours = Dissemination(accusers_max=4)
    large, small = a_suspect("b", 1, "c"), RecordAdvert(id_of("d"), 1, 1)
    rumours.push(small)
    rumours.push(large)
    room = len(GOSSIP.encode(small)) + UPDATE_OVERHEAD_BYTES
    taken = rumours.take(room, transmissions=9)
    assert [GOSSIP.decode(encoded) for encoded in taken] == [small]


def test_a_newer_statement_silences_the_older_ones() -> None:
    rumours = Dissemination(accusers_max=4)
    rumours.push(a_claim("b", 1))
    rumours.push(a_suspect("b", 1, "c"))
    rumours.push(a_suspect("b", 1, "d"))
    assert len(rumours) == 2
    rumours.push(a_death("b", 1, "c"))
    assert len(rumours) == 1
    rumours.push(a_claim("b", 2))
    assert [GOSSIP.decode(encoded) for encoded in rumours.take(1000, transmissions=9)] == [a_claim("b", 2)]


def test_no_more_accusers_are_told_than_are_needed() -> None:
    rumours = Dissemination(accusers_max=2)
    for accuser in "cdef":
        rumours.push(a_suspect("b", 1, accuser))
    assert len(rumours) == 2


def test_what_must_lead_leads_and_is_not_sent_twice_in_a_packet() -> None:
    rumours = Dissemination(accusers_max=4)
    accusation, other = a_suspect("b", 1, "c"), a_claim("d", 1)
    rumours.push(accusation)
    rumours.push(other)
    taken = rumours.take(1000, transmissions=9, first=(GOSSIP.encode(accusation),))
    assert [GOSSIP.decode(encoded) for encoded in taken] == [accusation, other]


def test_a_removed_member_is_no_longer_spoken_of() -> None:
    rumours = Dissemination(accusers_max=4)
    rumours.push(a_claim("b", 1))
    rumours.push(RecordAdvert(id_of("b"), 1, 1))
    rumours.forget(id_of("b"))
    assert len(rumours) == 0
