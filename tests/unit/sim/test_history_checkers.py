"""The checkers over histories, on histories made right and made wrong by hand."""

from __future__ import annotations

import random

import pytest

from tests.sim.checkers.invites import check_invites
from tests.sim.checkers.once import check_once
from tests.sim.checkers.violation import Violation
from tests.sim.checkers.wgl import Verdict, check_registers
from tests.sim.checkers.witness import check_witness
from tests.sim.history import History, Operation, Outcome

Row = tuple[str, str, str, float, float, int]


def register(*rows: Row) -> list[Operation]:
    """Operations from (kind, key, value, start, end, revision); a negative end: the outcome is unknown."""
    history = History()
    for kind, key, value, start, end, revision in rows:
        operation = history.begin(start, "c", kind, key, value if kind == "write" else "")
        if end < 0:
            operation.finish(start, Outcome.UNKNOWN, revision=revision)
        else:
            operation.finish(end, Outcome.DONE, revision=revision, answer=value if kind == "read" else "")
    return history.operations


RIGHT: dict[str, list[Row]] = {
    "a read of what was written": [("write", "k", "a", 0, 1, 5), ("read", "k", "a", 2, 3, 5)],
    "a read that overlaps a write sees the old value": [
        ("write", "k", "a", 0, 1, 5),
        ("write", "k", "b", 2, 6, 7),
        ("read", "k", "a", 3, 4, 6),
    ],
    "an unknown write that surfaces": [("write", "k", "a", 0, -1, 0), ("read", "k", "a", 9, 10, 6)],
    "an unknown write that never happened": [("write", "k", "a", 0, -1, 0), ("read", "k", "", 9, 10, 6)],
    "two keys": [("write", "k", "a", 0, 1, 5), ("read", "l", "", 2, 3, 5)],
}

WRONG: dict[str, list[Row]] = {
    "a stale read": [
        ("write", "k", "a", 0, 1, 5),
        ("write", "k", "b", 2, 3, 6),
        ("read", "k", "a", 4, 5, 5),
    ],
    "a lost write": [("write", "k", "a", 0, 1, 5), ("read", "k", "", 2, 3, 7)],
    "a value from nowhere": [("read", "k", "z", 2, 3, 7)],
    "a read back in time": [
        ("write", "k", "a", 0, 1, 5),
        ("write", "k", "b", 1, 9, 6),
        ("read", "k", "b", 2, 3, 6),
        ("read", "k", "a", 4, 5, 5),
    ],
    "an unknown write that happens twice": [
        ("write", "k", "a", 0, -1, 0),
        ("read", "k", "a", 1, 2, 5),
        ("write", "k", "b", 3, 4, 6),
        ("read", "k", "b", 5, 6, 6),
        ("read", "k", "a", 7, 8, 7),
    ],
    "a read of a write that has not begun": [("read", "k", "a", 0, 1, 5), ("write", "k", "a", 2, 3, 5)],
}


@pytest.mark.parametrize("name", RIGHT)
def test_linearizable_histories_pass_both_checkers(name: str) -> None:
    check_witness(register(*RIGHT[name]))
    assert check_registers(register(*RIGHT[name]))[Verdict.GAVE_UP] == 0


@pytest.mark.parametrize("name", WRONG)
def test_histories_made_wrong_fail_both_checkers(name: str) -> None:
    with pytest.raises(Violation):
        check_witness(register(*WRONG[name]))
    with pytest.raises(Violation):
        check_registers(register(*WRONG[name]))


def test_witness_refuses_revisions_that_contradict_real_time_across_keys() -> None:
    with pytest.raises(Violation, match="started at"):
        check_witness(register(("write", "k", "a", 0, 1, 9), ("write", "l", "b", 2, 3, 8)))


def test_witness_refuses_two_writes_at_one_revision() -> None:
    with pytest.raises(Violation, match="one revision"):
        check_witness(register(("write", "k", "a", 0, 5, 9), ("write", "l", "b", 2, 3, 9)))


def test_wgl_catches_what_consistent_but_wrong_revisions_hide() -> None:
    # A stale read whose revision is honest about the stale state, all within overlapping revision order.
    rows: list[Row] = [
        ("write", "k", "a", 0, 1, 5),
        ("write", "k", "b", 2, 3, 4),
        ("read", "k", "a", 4, 5, 5),
    ]
    with pytest.raises(Violation):
        check_registers(register(*rows))


def test_wgl_agrees_with_an_atomic_register_on_random_concurrent_histories() -> None:
    rng = random.Random("wgl")
    for _ in range(20):
        history = History()
        value, now = "", 0.0
        open_until = dict.fromkeys("abcde", 0.0)
        for number in range(60):
            client = min(open_until, key=lambda name: open_until[name])
            start = max(now, open_until[client])
            effect = start + rng.random()
            end = effect + rng.random()
            now = effect  # effects are in order, calls overlap
            open_until[client] = end
            if rng.random() < 0.5:
                operation = history.begin(start, client, "write", "k", str(number))
                value = str(number)
                operation.finish(end, Outcome.DONE)
            else:
                operation = history.begin(start, client, "read", "k")
                operation.finish(end, Outcome.DONE, answer=value)
        assert check_registers(history.operations)[Verdict.LINEARIZABLE] == 1


def test_wgl_gives_up_by_steps_and_counts_it() -> None:
    rows: list[Row] = [("write", "k", str(n), 0, -1, 0) for n in range(20)]
    rows.append(("read", "k", "from nowhere", 50, 51, 0))
    assert check_registers(register(*rows), steps_max=50)[Verdict.GAVE_UP] == 1


def join(invite: str, joiner: str, start: float, outcome: Outcome, answer: str = "") -> Operation:
    operation = Operation(0, joiner, "join", invite, joiner, start)
    operation.finish(start + 1, outcome, answer=answer)
    return operation


def test_an_invite_used_as_often_as_it_may_passes() -> None:
    joins = [
        join("t", "a", 0, Outcome.DONE, "a"),
        join("t", "a", 2, Outcome.DONE, "a"),
        join("t", "b", 0, Outcome.REFUSED, "invite.used-up"),
        join("t", "c", 0, Outcome.UNKNOWN),
    ]
    assert check_invites(joins, {"t": 1}) == 1


def test_an_invite_that_admits_one_too_many_is_a_violation() -> None:
    with pytest.raises(Violation, match="1 uses"):
        check_invites([join("t", "a", 0, Outcome.DONE), join("t", "b", 0, Outcome.DONE)], {"t": 1})


def test_a_joiner_whose_retry_is_refused_is_a_violation() -> None:
    joins = [join("t", "a", 0, Outcome.DONE), join("t", "a", 5, Outcome.REFUSED, "invite.used-up")]
    with pytest.raises(Violation, match="retry"):
        check_invites(joins, {"t": 1})


def test_a_joiner_that_gets_two_answers_is_a_violation() -> None:
    with pytest.raises(Violation, match="was told"):
        check_invites([join("t", "a", 0, Outcome.DONE, "x"), join("t", "a", 5, Outcome.DONE, "y")], {"t": 1})


def assign(mark: str, outcome: Outcome) -> Operation:
    operation = Operation(0, "c", "assign", "app", mark, 0.0)
    if outcome is not Outcome.OPEN:
        operation.finish(1.0, outcome)
    return operation


def test_effects_that_match_the_answers_pass() -> None:
    operations = [assign("a", Outcome.DONE), assign("b", Outcome.UNKNOWN), assign("c", Outcome.REFUSED)]
    assert check_once(operations, ["a", "b"]) == 1
    assert check_once(operations, ["a"]) == 1


@pytest.mark.parametrize(
    ("outcome", "effects", "claim"),
    [
        (Outcome.DONE, ["a", "a"], "2 times"),
        (Outcome.UNKNOWN, ["a", "a"], "2 times"),
        (Outcome.DONE, [], "had no effect"),
        (Outcome.REFUSED, ["a"], "said not to have happened"),
        (Outcome.NOTHING, ["a"], "said not to have happened"),
        (Outcome.DONE, ["a", "b"], "nobody asked for"),
    ],
)
def test_effects_that_contradict_the_answers_are_violations(outcome: Outcome, effects: list[str], claim: str) -> None:
    with pytest.raises(Violation, match=claim):
        check_once([assign("a", outcome)], effects)
