"""The choice: away from what is slow, busy or failing, and back when it has recovered."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from scheduler.ingress.balance import LATENCY_FLOOR_S, Balancer, RetryBudget, faded, smoothed
from scheduler.ingress.routes import Target
from tests.unit.ingress.replicas import target_of

ONE, TWO, THREE = target_of("web-1"), target_of("web-2"), target_of("web-3")
ALL = (ONE, TWO, THREE)


def serve(balancer: Balancer, now: float, latency_s: dict[str, float]) -> str:
    target = balancer.choose(now, ALL)
    assert target is not None
    balancer.begin(target)
    balancer.end(now + latency_s[target.replica_id], target, latency_s[target.replica_id])
    return target.replica_id


def test_replicas_that_differ_by_what_nobody_notices_get_equal_shares() -> None:
    balancer = Balancer(random.Random(1))
    latency = {"web-1": 0.001, "web-2": 0.003, "web-3": 0.009}
    shares = Counter(serve(balancer, now * 0.1, latency) for now in range(3000))
    assert all(800 < share < 1200 for share in shares.values())


@pytest.mark.parametrize("pause_s", [0.001, 0.01, 0.1, 1.0])
def test_equal_replicas_share_evenly_on_a_machine_that_hiccups(pause_s: float) -> None:
    balancer, rng = Balancer(random.Random(1)), random.Random(2)
    shares: Counter[str] = Counter()
    for number in range(3000):
        latency = {target.replica_id: rng.choice([0.004, 0.01, 0.02]) for target in ALL}
        if number % 100 == 0:
            latency[rng.choice(ALL).replica_id] = 0.3
        shares[serve(balancer, number * pause_s, latency)] += 1
    assert all(700 < share < 1300 for share in shares.values()), shares


def test_equal_replicas_share_evenly_when_many_requests_overlap() -> None:
    balancer, rng = Balancer(random.Random(1)), random.Random(2)
    shares: Counter[str] = Counter()
    flying: list[tuple[float, Target, float]] = []
    for number in range(3000):
        now = number * 0.01
        for over in [each for each in flying if each[0] <= now]:
            flying.remove(over)
            balancer.end(over[0], over[1], over[2])
        target = balancer.choose(now, ALL)
        assert target is not None
        balancer.begin(target)
        latency_s = rng.choice([0.005, 0.5])
        flying.append((now + latency_s, target, latency_s))
        shares[target.replica_id] += 1
    assert all(700 < share < 1300 for share in shares.values()), shares


def test_a_slow_replica_is_hardly_asked_and_gets_its_share_back_when_it_is_fast_again() -> None:
    balancer = Balancer(random.Random(1))
    latency = {"web-1": 0.005, "web-2": 0.005, "web-3": 1.0}
    assert Counter(serve(balancer, now * 0.01, latency) for now in range(1000))["web-3"] < 20
    latency["web-3"] = 0.005
    shares = Counter(serve(balancer, 10 + now * 0.1, latency) for now in range(3000))
    assert shares["web-3"] > 700


def test_a_busy_replica_loses_to_an_idle_one() -> None:
    balancer = Balancer(random.Random(1))
    for _ in range(5):
        balancer.begin(ONE)
    assert {balancer.choose(0.0, (ONE, TWO)) for _ in range(20)} == {TWO}


def test_a_failing_replica_is_set_aside_for_longer_each_time() -> None:
    balancer = Balancer(random.Random(1))
    now = 0.0
    for pause in (1, 2, 4, 8, 16, 30, 30):
        balancer.begin(ONE)
        balancer.end(now, ONE, None)
        assert {balancer.choose(now + pause * 0.99, (ONE, TWO)) for _ in range(20)} == {TWO}
        now += pause
    for _ in range(3):
        balancer.begin(TWO)
    assert ONE in {balancer.choose(now, (ONE, TWO)) for _ in range(20)}


def test_a_replica_set_aside_is_better_than_none() -> None:
    balancer = Balancer(random.Random(1))
    balancer.begin(ONE)
    balancer.end(0.0, ONE, None)
    assert balancer.choose(0.1, (ONE,)) == ONE


def test_no_replica_gets_more_than_it_may_have_in_flight() -> None:
    balancer = Balancer(random.Random(1), in_flight_max=2)
    for _ in range(4):
        target = balancer.choose(0.0, (ONE, TWO))
        assert target is not None
        balancer.begin(target)
    assert balancer.choose(0.0, (ONE, TWO)) is None
    assert balancer.full((ONE, TWO))
    balancer.release(ONE)
    assert balancer.choose(0.0, (ONE, TWO)) == ONE


def test_what_was_tried_is_not_chosen_again() -> None:
    balancer = Balancer(random.Random(1))
    assert balancer.choose(0.0, ALL, [ONE, TWO]) == THREE
    assert balancer.choose(0.0, ALL, ALL) is None


def test_the_gone_are_forgotten_once_nothing_is_in_flight_there() -> None:
    balancer = Balancer(random.Random(1))
    balancer.begin(ONE)
    balancer.keep_only(())
    assert [each.target for each in balancer.statistics()] == [ONE]
    balancer.end(1.0, ONE, 0.1)
    balancer.keep_only(())
    assert balancer.statistics() == ()


@pytest.mark.parametrize(
    ("average", "latency", "elapsed", "expected"),
    [(0.2, 1.0, 0.0, 0.28), (1.0, 0.1, 0.0, 0.91), (1.0, 0.1, 1e9, 0.1), (1.0, 1.0, 5.0, 1.0)],
)
def test_one_latency_counts_for_a_tenth_and_a_lower_one_for_more_after_a_silence(
    average: float, latency: float, elapsed: float, expected: float
) -> None:
    assert smoothed(average, latency, elapsed) == pytest.approx(expected)


def test_old_news_fade_towards_what_an_unknown_replica_costs() -> None:
    assert faded(1.0, 0.0) == 1.0
    assert faded(1.0, 1e9) == pytest.approx(LATENCY_FLOOR_S)
    assert faded(0.001, 1e9) == 0.001


def test_retries_are_a_fifth_of_the_requests_and_a_reserve() -> None:
    budget = RetryBudget()
    assert sum(budget.take(0.0) for _ in range(100)) == 20
    for _ in range(100):
        budget.note_request(0.0)
    assert sum(budget.take(0.0) for _ in range(100)) in (19, 20)


@pytest.mark.parametrize("rate", [10, 100, 1000])
def test_what_may_be_retried_at_once_grows_with_the_load_and_is_forgotten_in_its_absence(rate: int) -> None:
    budget = RetryBudget()
    for number in range(100 * rate):
        budget.note_request(number / rate)
    assert budget.reserve == pytest.approx(20 + 0.2 * rate * 10, rel=0.05)
    assert budget.take(100.0 + 60.0)
    assert budget.reserve == pytest.approx(19, abs=0.01 * rate)
