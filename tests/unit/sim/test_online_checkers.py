"""The checkers that watch replicas, on observations made wrong by hand."""

from __future__ import annotations

import pytest

from tests.sim.checkers.committed import CommittedLog
from tests.sim.checkers.gossip import check_gossip, disagreements
from tests.sim.checkers.liveness import CoreView, check_alive, unfinished
from tests.sim.checkers.one_leader import OneLeader
from tests.sim.checkers.replica_state import ReplicaState
from tests.sim.checkers.violation import Violation


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
