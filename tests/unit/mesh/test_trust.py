"""The trust store, the budget of strangers and the back-off."""

from __future__ import annotations

import random
from dataclasses import replace

from mesh.budget import UnauthenticatedBudget
from mesh.dialling import DialState, backoff_s
from mesh.errors import UnreachableError
from mesh.names import NodeId, Role
from mesh.trust import TrustedPeer, TrustStore


def peer(name: str, *, trusted: bool = True, voter: bool = True) -> TrustedPeer:
    return TrustedPeer(
        NodeId(name), name.encode() * 32, b"certificate of " + name.encode(), name, trusted, voter
    )


def test_a_member_is_found_by_its_exact_certificate_alone() -> None:
    trust = TrustStore([peer("a"), peer("b")])
    assert trust.by_certificate(b"certificate of a") == peer("a")
    assert trust.by_certificate(b"certificate of A") is None
    assert trust.by_certificate(b"") is None


def test_an_update_names_those_whose_certificates_no_longer_count() -> None:
    trust = TrustStore([peer("a"), peer("b"), peer("c")])
    generation = trust.generation
    assert trust.update([peer("a", voter=False), replace(peer("b"), certificate=b"new")]) == {"b", "c"}
    assert trust.generation > generation
    assert trust.get(NodeId("c")) is None and trust.by_certificate(b"new") is not None


def test_a_change_of_rights_alone_keeps_the_tls_contexts() -> None:
    trust = TrustStore([peer("a")])
    generation = trust.generation
    assert trust.update([peer("a", trusted=False)]) == frozenset()
    assert trust.generation == generation
    assert not trust.role_ok(NodeId("a"), Role.TRUSTED)


def test_roles_include_the_lower_ones_and_strangers_have_none() -> None:
    trust = TrustStore([peer("v"), peer("t", voter=False), peer("m", trusted=False, voter=False)])
    allowed = {
        name: {role for role in Role if trust.role_ok(NodeId(name), role)} for name in ("v", "t", "m", "x")
    }
    assert allowed == {
        "v": {Role.ANYONE, Role.MEMBER, Role.TRUSTED, Role.VOTER},
        "t": {Role.ANYONE, Role.MEMBER, Role.TRUSTED},
        "m": {Role.ANYONE, Role.MEMBER},
        "x": {Role.ANYONE},
    }


def test_the_budget_is_bounded_in_all_and_by_address_but_for_the_loopback() -> None:
    budget = UnauthenticatedBudget(total_max=20, address_max=8)
    assert [budget.enter("192.0.2.1") for _ in range(9)] == [True] * 8 + [False]
    assert [budget.enter("::1") for _ in range(6)] == [True] * 6
    assert [budget.enter("::ffff:127.0.0.1") for _ in range(6)] == [True] * 6
    assert not budget.enter("192.0.2.2")  # twenty in all
    for _ in range(8):
        budget.leave("192.0.2.1")
    assert budget.enter("192.0.2.2")
    assert budget.statistics().now == 13 and budget.statistics().refused == 2


def test_the_back_off_doubles_to_its_limit_and_is_jittered() -> None:
    assert [backoff_s(failures, 1.0) for failures in range(9)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff_s(1000, 0.0) == 2.5


async def test_new_addresses_and_news_of_the_peer_end_the_back_off() -> None:
    state = DialState(random.Random(1))
    assert not state.may_dial(0.0)  # nowhere to dial
    state.set_addresses(("a:1", "b:1"))
    assert state.may_dial(0.0)
    state.failed(0.0, UnreachableError("x"))
    assert not state.may_dial(0.01) and state.may_dial(0.2)
    state.set_addresses(("a:1", "b:1"))
    assert not state.may_dial(0.01)
    state.set_addresses(("c:1", "d:1"))
    assert state.may_dial(0.01)
    state.prefer("d:1")
    assert state.addresses == ("d:1", "c:1")
