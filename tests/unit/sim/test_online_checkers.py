"""The checkers that watch replicas, on observations made wrong by hand."""

from __future__ import annotations

import pytest

from tests.sim.checkers.committed import CommittedLog
from tests.sim.checkers.gossip import check_gossip, disagreements
from tests.sim.checkers.liveness import CoreView, check_alive, unfinished
from tests.sim.checkers.one_leader import OneLeader
from tests.sim.checkers.recovered import HeldLog, check_recovered, common_prefix
from tests.sim.checkers.replica_state import ReplicaState
from tests.sim.checkers.violation import Violation
from tests.sim.oracle import Oracle


def test_two_leaders_in_one_term_are_a_violation() -> None:
    checker = OneLeader()
    checker.leads(1, 3, "n1")
    checker.leads(1, 3, "n1")
    checker.leads(1, 4, "n2")
    checker.leads(2, 3, "n2")
    assert checker.terms() == 3
    with pytest.raises(Violation, match="two leaders"):
        checker.leads(1, 3, "n2")


@pytest.mark.parametrize(("term", "kind", "payload"), [(2, "normal", b"x"), (1, "config", b"x"), (1, "normal", b"y")])
def test_another_entry_at_a_committed_index_is_a_violation(term: int, kind: str, payload: bytes) -> None:
    log = CommittedLog()
    log.committed("n1", 1, 1, "normal", b"x")
    log.committed("n2", 1, 1, "normal", b"x")
    with pytest.raises(Violation, match="index 1"):
        log.committed("n3", 1, term, kind, payload)


def test_a_leader_without_a_committed_entry_is_a_violation() -> None:
    log = CommittedLog()
    log.committed("n1", 5, 1, "normal", b"x")
    log.leader_has("n2", 5)
    with pytest.raises(Violation, match="5 is committed"):
        log.leader_has("n3", 4)


def test_an_acknowledgement_of_what_is_not_committed_is_a_violation() -> None:
    log = CommittedLog()
    log.committed("n1", 5, 1, "normal", b"[request 7]")
    log.acknowledged("n1", 5, b"request 7")
    with pytest.raises(Violation, match="another request"):
        log.acknowledged("n1", 5, b"request 8")
    with pytest.raises(Violation, match="nobody"):
        log.acknowledged("n1", 6, b"request 7")


def test_a_commit_index_that_falls_is_a_violation_within_one_life() -> None:
    state = ReplicaState()
    state.commit("n1.1", 7)
    state.starts_at("n1.2", 3)
    state.commit("n1.2", 3)
    with pytest.raises(Violation, match="fell"):
        state.commit("n1.1", 6)


def test_applying_twice_or_with_a_gap_is_a_violation() -> None:
    state = ReplicaState()
    state.starts_at("n1.1", 3)
    state.applied("n1.1", 4)
    state.applied("n1.1", 9, by_snapshot=True)
    with pytest.raises(Violation):
        state.applied("n1.1", 9)
    with pytest.raises(Violation):
        state.applied("n1.1", 11)
    with pytest.raises(Violation):
        state.applied("n1.1", 8, by_snapshot=True)


def test_other_results_or_digests_at_one_index_are_violations() -> None:
    state = ReplicaState()
    state.result("n1.1", 4, b"done")
    state.digest("n1.1", 4, b"d")
    with pytest.raises(Violation, match="another result"):
        state.result("n2.1", 4, b"refused")
    with pytest.raises(Violation, match="is not that of"):
        state.digest("n2.1", 4, b"e")


def test_gossip_that_misjudges_anyone_is_a_violation() -> None:
    right = {"a": {"b": "alive", "x": "down"}, "b": {"a": "alive", "x": "suspect"}}
    check_gossip(right, ["a", "b"], ["x"])
    assert disagreements({"a": {"b": "suspect"}}, ["a", "b"], []) == [("a", "b", "suspect")]
    with pytest.raises(Violation, match="a still sees x as alive"):
        check_gossip({"a": {"b": "alive", "x": "alive"}}, ["a", "b"], ["x"])
    with pytest.raises(Violation, match="unknown"):
        check_gossip({"a": {}}, ["a", "b"], [])


def view(node: str, *, leads: bool = False, applied: int = 9, digest: bytes = b"d", waiting: int = 0) -> CoreView:
    return CoreView(node, leads, "a", 3, applied, digest, waiting)


def test_liveness_names_what_is_unfinished() -> None:
    assert unfinished([view("a", leads=True), view("b")], quiet_since_index=9) == ""
    assert unfinished([view("a"), view("b")], quiet_since_index=9) == "nobody leads"
    assert "wait at b" in unfinished([view("a", leads=True), view("b", waiting=2)], quiet_since_index=9)
    assert "b has applied 8" in unfinished([view("a", leads=True), view("b", applied=8)], quiet_since_index=9)
    assert "a has applied 9" in unfinished([view("a", leads=True), view("b")], quiet_since_index=10)
    assert "differ" in unfinished([view("a", leads=True), view("b", digest=b"e")], quiet_since_index=9)
    with pytest.raises(Violation, match="nobody leads"):
        check_alive("nobody leads", waited_s=20.0)


# --- recovery ---------------------------------------------------------------------------------------------------


def agreed_on(*terms: int) -> CommittedLog:
    """A history of so many entries; a term of 0 is one of Raft's own."""
    log = CommittedLog()
    for index, term in enumerate(terms, 1):
        log.committed("n1", index, term, "normal" if term else "raft's own", b"" if not term else b"x")
    return log


def held(base: int, *terms: int) -> HeldLog:
    kinds = [(term or 9, "normal" if term else "raft's own") for term in terms]
    return HeldLog(base, dict(enumerate(kinds, base + 1)))


def test_how_far_a_survivors_log_is_the_agreed_one() -> None:
    log = agreed_on(1, 1, 0, 2, 2)
    assert common_prefix(log, held(0, 1, 1, 0, 2, 2, 2)) == 5  # and one that was never agreed on
    assert common_prefix(log, held(0, 1, 1, 0)) == 3
    assert common_prefix(log, held(0, 1, 1, 0, 1)) == 3  # another leader's entry stands there
    assert common_prefix(log, held(2)) == 2  # a snapshot alone


def test_an_epoch_that_goes_on_from_less_than_a_survivor_holds_is_a_violation() -> None:
    log = agreed_on(1, 1, 0, 2, 2)
    logs = {"n2": held(0, 1, 1), "n3": held(0, 1, 1, 0, 2)}
    check_recovered(log, "n3", 4, logs)
    with pytest.raises(Violation, match="n3 holds what was agreed on up to 4, and n2 goes on from 2"):
        check_recovered(log, "n2", 2, logs)


def test_each_epoch_is_compared_with_its_own_history() -> None:
    oracle = Oracle()
    for index in (1, 2, 3):
        oracle.branch(1).log.committed("n1", index, 1, "normal", b"old")
    assert oracle.recovered(2, "n2", {"n2": held(0, 1, 1)}) == 2
    oracle.branch(2).log.committed("n2", 3, 9, "normal", b"new")
    oracle.branch(1).log.committed("n3", 3, 1, "normal", b"old")
    with pytest.raises(Violation):
        oracle.branch(2).log.committed("n3", 3, 1, "normal", b"old")
    assert oracle.is_given_up(1, 3) and not oracle.is_given_up(1, 2) and not oracle.is_given_up(2, 3)
