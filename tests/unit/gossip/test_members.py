"""The precedence of statements, and the order of probes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.members import Applied, Members, MemberState, rank
from gossip.messages import Claim, Standing, Statement
from tests.unit.gossip.network import id_of, public_key, verify
from tests.unit.gossip.statements import a_claim, a_death, a_suspect

NAMES = "abcdef"


def members_of_a(names: str = NAMES) -> Members:
    members = Members(id_of("a"), verify, random.Random(1))
    members.replace(0.0, {id_of(name): public_key(name) for name in names})
    return members


def about_b(kind: str, incarnation: int, accuser: str) -> Statement:
    match kind:
        case "claim":
            return a_claim("b", incarnation)
        case "suspect":
            return a_suspect("b", incarnation, accuser)
        case _:
            return a_death("b", incarnation, accuser)


statements = st.lists(
    st.builds(
        about_b,
        st.sampled_from(["claim", "suspect", "dead"]),
        st.integers(1, 4),
        st.sampled_from("acdef"),
    ),
    max_size=8,
)


@given(statements, st.randoms(use_true_random=False))
def test_statements_in_any_order_and_number_end_the_same(heard: list[Statement], chance: random.Random) -> None:
    one, other = members_of_a(), members_of_a()
    for statement in heard:
        one.apply(0.0, statement, wall_ms=0)
    again = heard * 2
    chance.shuffle(again)
    for statement in again:
        other.apply(0.0, statement, wall_ms=0)
    first, second = one.get(id_of("b")), other.get(id_of("b"))
    assert first is not None and second is not None
    assert rank(first.statement) == rank(second.statement) == max(map(rank, heard), default=(0, 0))


@pytest.mark.parametrize(
    ("held", "said", "result"),
    [
        (("claim", 3), ("claim", 2), Applied.STALE),
        (("claim", 3), ("claim", 3), Applied.STALE),
        (("claim", 3), ("claim", 4), Applied.NEWER),
        (("claim", 3), ("suspect", 2), Applied.STALE),
        (("claim", 3), ("suspect", 3), Applied.NEWER),
        (("claim", 3), ("dead", 3), Applied.NEWER),
        (("suspect", 3), ("claim", 3), Applied.STALE),
        (("suspect", 3), ("claim", 4), Applied.NEWER),
        (("suspect", 3), ("suspect", 3), Applied.CONFIRMS),
        (("suspect", 3), ("dead", 3), Applied.NEWER),
        (("dead", 3), ("claim", 3), Applied.STALE),
        (("dead", 3), ("suspect", 3), Applied.STALE),
        (("dead", 3), ("dead", 3), Applied.STALE),
        (("dead", 3), ("claim", 4), Applied.NEWER),
        (("dead", 3), ("suspect", 4), Applied.NEWER),
    ],
)
def test_the_table_of_precedence(held: tuple[str, int], said: tuple[str, int], result: Applied) -> None:
    members = members_of_a()
    members.apply(0.0, about_b(*held, "c"), wall_ms=0)
    assert members.apply(1.0, about_b(*said, "d"), wall_ms=0) is result


def test_a_claim_signed_by_another_is_refused_and_changes_nothing() -> None:
    members = members_of_a()
    assert members.apply(0.0, a_claim("b", 5, signer="c"), wall_ms=0) is Applied.REFUSED
    assert members.apply(0.0, a_suspect("b", 5, "c", signer="c"), wall_ms=0) is Applied.REFUSED
    assert members.get(id_of("b")).state is MemberState.UNKNOWN  # type: ignore[union-attr]
    assert members.refused == 2


def test_an_accusation_at_an_incarnation_never_signed_is_refused() -> None:
    members = members_of_a()
    members.apply(0.0, a_claim("b", 5), wall_ms=0)
    forged = a_suspect("b", 9, "c", signer="c")
    assert members.apply(0.0, forged, wall_ms=0) is Applied.REFUSED
    assert members.get(id_of("b")).incarnation == 5  # type: ignore[union-attr]


def test_strangers_neither_exist_nor_accuse() -> None:
    members = members_of_a()
    members.apply(0.0, a_claim("b", 5), wall_ms=0)
    assert members.apply(0.0, a_claim("z", 1), wall_ms=0) is Applied.REFUSED
    assert members.apply(0.0, a_suspect("b", 5, "z"), wall_ms=0) is Applied.REFUSED
    assert members.get(id_of("b")).state is MemberState.ALIVE  # type: ignore[union-attr]


def test_who_left_cannot_be_accused() -> None:
    members = members_of_a()
    members.apply(0.0, a_claim("b", 5, Standing.LEFT), wall_ms=0)
    assert members.apply(0.0, a_suspect("b", 5, "c", standing=Standing.LEFT), wall_ms=0) is Applied.REFUSED
    assert members.get(id_of("b")).state is MemberState.LEFT  # type: ignore[union-attr]


@pytest.mark.parametrize(("wall_ms", "result"), [(999, Applied.REFUSED), (1000, Applied.NEWER)])
def test_who_is_away_can_be_accused_only_when_the_time_is_over(wall_ms: int, result: Applied) -> None:
    members = members_of_a()
    away = {"standing": Standing.AWAY, "until_ms": 1000}
    members.apply(0.0, a_claim("b", 5, Standing.AWAY, until_ms=1000), wall_ms=0)
    assert members.apply(0.0, a_suspect("b", 5, "c", **away), wall_ms=wall_ms) is result


def test_since_is_the_time_of_the_last_change_of_state_only() -> None:
    members = members_of_a()
    members.apply(1.0, a_claim("b", 1), wall_ms=0)
    members.apply(2.0, a_claim("b", 2), wall_ms=0)
    assert members.get(id_of("b")).since == 1.0  # type: ignore[union-attr]
    members.apply(3.0, a_suspect("b", 2, "c"), wall_ms=0)
    assert members.get(id_of("b")).since == 3.0  # type: ignore[union-attr]


def test_every_living_member_is_probed_once_a_round() -> None:
    members = members_of_a()
    for name in "bcdef":
        members.apply(0.0, a_claim(name, 1), wall_ms=0)
    members.apply(0.0, a_death("c", 1, "b"), wall_ms=0)
    members.apply(0.0, a_claim("d", 2, Standing.LEFT), wall_ms=0)
    first = [members.next_target(0) for _ in range(3)]
    rounds = [members.next_target(0) for _ in range(30)]
    assert {member.node_id for member in first if member} == {id_of(name) for name in "bef"}
    assert set(Counter(member.node_id for member in rounds if member).values()) == {10}


def test_the_address_changes_with_every_failure() -> None:
    members = members_of_a()
    members.apply(0.0, a_claim("b", 1, address="claimed:1"), wall_ms=0)
    member = members.get(id_of("b"))
    assert member is not None
    member.ledger_addresses = ("ledger:1", "claimed:1")
    member.heard_from = "heard:1"
    seen = []
    for failures in range(4):
        member.failures = failures
        seen.append(member.address)
    assert seen == ["claimed:1", "ledger:1", "heard:1", "claimed:1"]


def test_a_claim_is_verified_once_and_not_at_each_repetition() -> None:
    calls = []

    def counting(*arguments: bytes) -> bool:
        calls.append(arguments)
        return verify(*arguments)  # type: ignore[arg-type]

    members = Members(id_of("a"), counting, random.Random(1))
    members.replace(0.0, {id_of(name): public_key(name) for name in NAMES})
    claim = a_claim("b", 1)
    assert isinstance(claim, Claim)
    for statement in (claim, claim, a_suspect("b", 1, "c"), a_suspect("b", 1, "d"), a_death("b", 1, "c")):
        members.apply(0.0, statement, wall_ms=0)
    assert len(calls) == 1
