"""How long a suspicion lasts, and who counts as a confirmer."""

from __future__ import annotations

import pytest

from gossip.suspicion import Suspicion, suspicion_bounds, suspicion_timeout
from tests.unit.gossip.network import id_of
from tests.unit.gossip.statements import NO_EVIDENCE


@pytest.mark.parametrize(
    ("confirmations", "expected", "timeout_s"),
    [
        (0, 0, 2.0),  # two nodes: nobody to confirm
        (0, 3, 30.0),
        (1, 3, 16.0),
        (2, 3, 7.81),
        (3, 3, 2.0),
        (4, 3, 2.0),  # more than expected changes nothing
    ],
)
def test_confirmations_shorten_a_suspicion_by_their_logarithm(
    confirmations: int, expected: int, timeout_s: float
) -> None:
    assert suspicion_timeout(confirmations, expected, 2.0, 30.0) == pytest.approx(timeout_s, abs=0.01)


@pytest.mark.parametrize(("members", "shortest_s"), [(1, 3.0), (10, 3.0), (100, 6.0), (1000, 9.0)])
def test_suspicions_grow_with_the_logarithm_of_the_mesh(members: int, shortest_s: float) -> None:
    assert suspicion_bounds(members, 1.5, 4.0, 2.0) == pytest.approx((shortest_s, shortest_s * 4))


def a_suspicion(expected: int = 3) -> Suspicion:
    return Suspicion(
        7, id_of("a"), NO_EVIDENCE, started=100.0, expected=expected, shortest_s=2.0, longest_s=30.0
    )


def test_one_accuser_counts_once_however_often_it_speaks() -> None:
    suspicion = a_suspicion()
    assert [suspicion.confirm(id_of(name)) for name in "abbbab"] == [False, True, False, False, False, False]
    assert suspicion.confirmers == (id_of("b"),)
    assert suspicion.deadline() == pytest.approx(116.0)


def test_confirmations_beyond_the_expected_are_not_worth_telling() -> None:
    suspicion = a_suspicion(expected=1)
    assert suspicion.confirm(id_of("b"))
    assert not suspicion.confirm(id_of("c"))
    assert suspicion.deadline() == 102.0


def test_standing_still_gives_the_accused_its_time_back() -> None:
    suspicion = a_suspicion(expected=0)
    suspicion.postpone(5.0)
    assert suspicion.deadline() == 107.0
