"""The proposer: once and only once, whatever becomes of messages and leaders."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.ledger_entries import Done, Entry, OpenSession, RevokeApiToken
from consensus.ledger_entries import Refused as RefusedResult
from consensus.proposer import (
    ATTEMPT_S,
    QUEUE_MAX,
    SESSIONS_MAX,
    Attempt,
    Decided,
    Expired,
    Outcome,
    Proposer,
    Rejected,
    Unknown,
)
from consensus.proposing import Applied, Lost, NotTaken
from mesh.errors import ExhaustedError
from mesh.names import NodeId

A, B = NodeId("a"), NodeId("b")


class Desk:
    """The proposer and what it said; sessions are opened at once, numbered from 1."""

    def __init__(self, leader: NodeId | None = A) -> None:
        self.proposer = Proposer(random.Random(1))
        self.now = 0.0
        self.sessions = 0
        self.finished: dict[int, Outcome] = {}
        self.attempts: list[Attempt] = []
        self.proposer.set_leader(0.0, leader)

    def submit(self, token: int, deadline: float = 10.0, entry: Entry | None = None) -> None:
        self.proposer.submit(self.now, token, entry or RevokeApiToken(str(token)), deadline)
        self.look()

    def look(self) -> None:
        output = self.proposer.take_output()
        self.finished.update({finished.token: finished.outcome for finished in output.finished})
        for attempt in output.attempts:
            if isinstance(attempt.request.entry, OpenSession):
                self.sessions += 1
                opened = Done(self.sessions.to_bytes(8, "big").hex())
                self.proposer.answered(self.now, attempt.number, Applied(self.sessions, opened))
                self.look()
            else:
                self.attempts.append(attempt)

    def take(self) -> Attempt:
        (attempt,), self.attempts = self.attempts, []
        return attempt

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.proposer.next_deadline() <= end:
            self.now = max(self.now, self.proposer.next_deadline())
            self.proposer.tick(self.now)
            self.look()
        self.now = end

    def answer(self, attempt: Attempt, answer: Applied | NotTaken | Lost) -> None:
        self.proposer.answered(self.now, attempt.number, answer)
        self.look()


def test_a_request_is_sent_in_a_session_and_its_result_told() -> None:
    desk = Desk()
    desk.submit(1)
    attempt = desk.take()
    assert (attempt.to, attempt.request.sequence) == (A, 1)
    desk.answer(attempt, Applied(7, Done("x")))
    assert desk.finished == {1: Decided(7, Done("x"))}


def test_a_session_is_used_again_with_the_next_number() -> None:
    desk = Desk()
    for token in (1, 2):
        desk.submit(token)
        attempt = desk.take()
        assert attempt.request.sequence == token
        desk.answer(attempt, Applied(token, Done("")))
    assert desk.sessions == 1


def test_what_was_lost_is_repeated_under_the_same_number_at_the_new_leader() -> None:
    desk = Desk()
    desk.submit(1)
    first = desk.take()
    desk.answer(first, Lost())
    desk.proposer.set_leader(desk.now, B)
    desk.look()
    second = desk.take()
    assert (second.to, second.request) == (B, first.request)
    desk.answer(second, Applied(9, Done("")))
    assert isinstance(desk.finished[1], Decided)


def test_a_new_leader_is_asked_at_once_while_the_old_one_keeps_silent() -> None:
    desk = Desk()
    desk.submit(1)
    first = desk.take()
    desk.proposer.set_leader(desk.now, B)
    desk.look()
    assert desk.take().request == first.request


def test_whoever_does_not_lead_passes_us_on() -> None:
    desk = Desk()
    desk.submit(1)
    desk.answer(desk.take(), NotTaken(B, "this node does not lead", for_good=False))
    assert desk.take().to == B


def test_two_that_name_each_other_do_not_make_us_run_in_a_circle() -> None:
    desk = Desk()
    desk.submit(1)
    for _ in range(200):
        if not desk.attempts:
            break
        attempt = desk.take()
        desk.answer(attempt, NotTaken(B if attempt.to == A else A, "not I", for_good=False))
    assert not desk.attempts
    assert desk.proposer.next_deadline() > desk.now


def test_without_a_leader_the_end_is_no_quorum_and_nothing_happened() -> None:
    desk = Desk(leader=None)
    desk.submit(1, deadline=3.0)
    desk.pass_time(4.0)
    assert isinstance(desk.finished[1], Expired)
    assert desk.attempts == []


def test_sent_and_never_answered_the_end_is_unknown_and_its_session_is_left() -> None:
    desk = Desk()
    desk.submit(1, deadline=5.0)
    desk.pass_time(6.0)
    assert isinstance(desk.finished[1], Unknown)
    assert len({attempt.request for attempt in desk.attempts}) == 1
    assert len(desk.attempts) >= 2
    desk.attempts.clear()
    desk.submit(2)
    assert desk.take().request.session_id == (2).to_bytes(8, "big")


def test_what_certainly_did_not_arrive_expires_without_a_doubt() -> None:
    desk = Desk()
    desk.submit(1, deadline=5.0)
    while desk.now < 5.0:
        for attempt in desk.attempts:
            desk.proposer.failed(desk.now, attempt.number, arrived=False, reason="unreachable")
        desk.attempts.clear()
        desk.pass_time(0.01)
        desk.proposer.set_leader(desk.now, A)
        desk.look()
    desk.pass_time(1.0)
    assert isinstance(desk.finished[1], Expired)


def test_a_forgotten_session_is_replaced_if_nothing_arrived_in_it() -> None:
    desk = Desk()
    desk.submit(1)
    unknown = RefusedResult("session.unknown", "unavailable", "", "", "")
    first = desk.take()
    desk.answer(first, Applied(5, unknown))
    second = desk.take()
    assert second.request.session_id != first.request.session_id
    desk.answer(second, Lost())
    desk.pass_time(1.0)
    desk.answer(desk.attempts.pop(), Applied(9, unknown))
    assert isinstance(desk.finished[1], Unknown)


def test_a_refusal_by_the_ledger_is_a_result_like_any_other() -> None:
    desk = Desk()
    desk.submit(1)
    refused = RefusedResult("conflict", "conflict", "no", "", "")
    desk.answer(desk.take(), Applied(5, refused))
    assert desk.finished[1] == Decided(5, refused)


def test_too_large_is_told_at_once() -> None:
    desk = Desk()
    desk.submit(1)
    desk.answer(desk.take(), NotTaken(A, "an entry is larger than 1 MiB", for_good=True))
    assert isinstance(desk.finished[1], Rejected)


def test_many_requests_share_a_bounded_number_of_sessions_and_all_end() -> None:
    desk = Desk()
    for token in range(200):
        desk.submit(token, deadline=100.0)
    assert len(desk.attempts) == SESSIONS_MAX
    while desk.attempts:
        desk.answer(desk.attempts.pop(), Applied(1, Done("")))
    assert len(desk.finished) == 200
    assert desk.sessions == SESSIONS_MAX


def test_the_queue_is_bounded() -> None:
    desk = Desk(leader=None)
    with pytest.raises(ExhaustedError):
        for token in range(QUEUE_MAX + 1):
            desk.submit(token)


def test_an_attempt_without_an_answer_is_repeated() -> None:
    desk = Desk()
    desk.submit(1, deadline=100.0)
    desk.pass_time(3 * ATTEMPT_S)
    assert len(desk.attempts) >= 2


class ToyLedger:
    """Applies a request once per (session, sequence), as the ledger does."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, tuple[int, Done]] = {}
        self.applied: list[str] = []
        self.index = 0

    def apply(self, attempt: Attempt) -> Applied:
        self.index += 1
        request = attempt.request
        if isinstance(request.entry, OpenSession):
            self.sessions[self.index.to_bytes(8, "big")] = (0, Done(""))
            return Applied(self.index, Done(self.index.to_bytes(8, "big").hex()))
        last, result = self.sessions.get(request.session_id, (-2, Done("")))
        if request.sequence == last:
            return Applied(self.index, result)
        if request.sequence != last + 1:
            return Applied(self.index, RefusedResult("session.sequence", "unavailable", "", "", ""))
        assert isinstance(request.entry, RevokeApiToken)
        self.applied.append(request.entry.token_id)
        self.sessions[request.session_id] = (request.sequence, Done(str(self.index)))
        return Applied(self.index, Done(str(self.index)))


@settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_decided_means_applied_once_and_expired_means_never(seed: int) -> None:
    rng = random.Random(seed)
    ledger, proposer = ToyLedger(), Proposer(rng)
    outcomes: dict[int, Outcome] = {}
    on_the_way: list[Attempt] = []
    copies: list[Attempt] = []
    answers: list[tuple[int, Applied | NotTaken | Lost]] = []
    now = 0.0
    for step in range(300):
        now += rng.random() * 0.3
        if step < 40:
            proposer.submit(now, step, RevokeApiToken(str(step)), now + rng.uniform(0.5, 20))
        proposer.set_leader(now, rng.choice([A, B, None]) if rng.random() < 0.2 else A)
        proposer.tick(now)
        output = proposer.take_output()
        on_the_way += output.attempts
        outcomes.update({finished.token: finished.outcome for finished in output.finished})
        rng.shuffle(on_the_way)
        rng.shuffle(copies)
        for copy in [copies.pop() for _ in range(rng.randint(0, len(copies)))]:
            ledger.apply(copy)
        for attempt in [on_the_way.pop() for _ in range(rng.randint(0, len(on_the_way)))]:
            fate = rng.random()
            if fate < 0.15:
                proposer.failed(now, attempt.number, arrived=False, reason="unreachable")
            elif fate < 0.25:
                answers.append((attempt.number, NotTaken(rng.choice([A, B, None]), "not I", for_good=False)))
            else:
                applied = ledger.apply(attempt)
                if rng.random() < 0.2:
                    copies.append(attempt)  # the network doubles it; the copy comes late
                if fate < 0.7:
                    answers.append((attempt.number, applied))
                elif fate < 0.8:
                    answers.append((attempt.number, Lost()))
        for number, answer in [answers.pop(0) for _ in range(rng.randint(0, len(answers)))]:
            proposer.answered(now, number, answer)
    proposer.tick(now + 1000)
    outcomes.update({finished.token: finished.outcome for finished in proposer.take_output().finished})
    for attempt in [*on_the_way, *copies]:
        ledger.apply(attempt)
    assert sorted(outcomes) == list(range(40))
    for token, outcome in outcomes.items():
        count = ledger.applied.count(str(token))
        assert count <= 1
        if isinstance(outcome, Decided):
            assert count == 1
        elif isinstance(outcome, Expired):
            assert count == 0
