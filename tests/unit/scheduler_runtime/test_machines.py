"""The pure parts of running replicas: health, back-off, entitlement, what to start and stop, the command's form."""

from __future__ import annotations

import random
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.records import Assignment
from gossip.record import ReplicaHealth
from mesh.names import NodeId
from scheduler.backoff import JITTER, Backoff
from scheduler.entitlement import Entitlement
from scheduler.health_gate import START_S_MAX, UNHEALTHY_FACTOR, HealthGate
from scheduler.local_plan import Running, assigned_to, decide
from scheduler.runtimes.command import shell_command
from scheduler.runtimes.messages import HealthCheck, RestartPolicy

CHECK = HealthCheck(path="/health", interval_s=2.0, timeout_s=1.0, healthy_after=2, unhealthy_after=3)
HERE = NodeId("here")


def assignment(replica_id: str, index: int, node: NodeId = HERE) -> Assignment:
    return Assignment(replica_id, "web", 1, node, index, 0, "")


# --- health -------------------------------------------------------------------------------------------------------


def test_a_replica_is_healthy_after_enough_good_answers_in_a_row() -> None:
    gate = HealthGate(CHECK, 0.0)
    assert not gate.record(0.1, None)
    assert not gate.record(0.2, "refused")
    assert not gate.record(0.3, None)
    assert gate.health is ReplicaHealth.STARTING
    assert gate.record(0.4, None)
    assert gate.health is ReplicaHealth.HEALTHY


def test_a_healthy_replica_leaves_after_enough_bad_answers_and_returns() -> None:
    gate = HealthGate(CHECK, 0.0)
    gate.record(0.1, None)
    gate.record(0.2, None)
    assert not gate.record(2.0, "500")
    assert not gate.record(4.0, "500")
    assert gate.record(6.0, "500")
    assert (gate.health, gate.reason) == (ReplicaHealth.UNHEALTHY, "500")
    gate.record(8.0, None)
    assert gate.record(10.0, None)
    assert gate.health is ReplicaHealth.HEALTHY


def test_an_unhealthy_replica_is_given_up_after_as_many_failures_again() -> None:
    gate = HealthGate(CHECK, 0.0)
    gate.record(0.1, None)
    gate.record(0.2, None)
    for number in range(1, CHECK.unhealthy_after * UNHEALTHY_FACTOR):
        gate.record(float(number), "500")
        assert gate.hopeless(float(number)) is None
    gate.record(99.0, "500")
    assert gate.hopeless(99.0) == "unhealthy: 500"


def test_a_replica_that_never_becomes_healthy_is_given_up_at_the_limit() -> None:
    gate = HealthGate(CHECK, 100.0)
    gate.record(101.0, "no connection")
    assert gate.hopeless(100.0 + START_S_MAX - 0.1) is None
    assert gate.hopeless(100.0 + START_S_MAX) == f"not healthy within {START_S_MAX:g} s: no connection"


def test_a_starting_replica_is_asked_soon_and_then_at_its_interval() -> None:
    gate = HealthGate(CHECK, 0.0)
    times = [gate.next_probe()]
    while len(times) < 12:
        gate.record(times[-1], "not yet")
        times.append(gate.next_probe())
    assert times[0] == 0.1
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == CHECK.interval_s
    gate.record(50.0, None)
    gate.record(50.1, None)
    assert gate.next_probe() == 50.1 + CHECK.interval_s


# --- back-off -----------------------------------------------------------------------------------------------------


def test_waits_double_up_to_the_longest_and_a_good_while_forgives() -> None:
    backoff = Backoff(RestartPolicy(1.0, 60.0, 0), restarts=0, rng=random.Random(1))
    waits = [backoff.failed(0.0) or 0.0 for _ in range(10)]
    for wait, plain in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60, 60, 60), strict=True):
        assert plain * (1 - JITTER) <= wait <= plain * (1 + JITTER)
    assert (backoff.failed(60.0) or 0.0) <= 1 + JITTER
    assert backoff.restarts == 11


def test_giving_up_counts_failures_in_a_row() -> None:
    backoff = Backoff(RestartPolicy(1.0, 60.0, 2), restarts=7, rng=random.Random(1))
    assert backoff.failed(0.0) is not None
    assert backoff.failed(0.0) is not None
    assert backoff.failed(600.0) is not None
    assert backoff.failed(0.0) is not None
    assert backoff.failed(0.0) is None
    assert backoff.restarts == 12


# --- entitlement --------------------------------------------------------------------------------------------------


def test_what_was_heard_since_the_last_tick_counts_from_that_tick() -> None:
    entitlement = Entitlement()
    entitlement.tick(monotonic=10.0, boottime=110.0, ledger_age_s=0.1)
    assert entitlement.since() == -inf
    entitlement.tick(monotonic=11.0, boottime=111.0, ledger_age_s=0.5)
    assert entitlement.since() == 110.0
    entitlement.tick(monotonic=12.0, boottime=112.0, ledger_age_s=1.5)
    assert entitlement.since() == 110.0


def test_a_suspended_machine_does_not_take_an_old_word_for_a_new_one() -> None:
    """The monotonic clock says that 1 s went by; an hour did."""
    entitlement = Entitlement()
    entitlement.tick(monotonic=10.0, boottime=110.0, ledger_age_s=0.0)
    entitlement.tick(monotonic=11.0, boottime=3711.0, ledger_age_s=0.9)
    assert entitlement.since() == 110.0


def test_a_confirmed_read_counts_from_when_it_was_asked() -> None:
    entitlement = Entitlement()
    entitlement.confirm(50.0)
    entitlement.confirm(40.0)
    assert entitlement.since() == 50.0


@given(st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(0.0, 100.0), st.booleans()), max_size=30))
def test_nobody_is_entitled_from_a_moment_after_the_leader_was_last_heard(
    steps: list[tuple[float, float, bool]],
) -> None:
    entitlement = Entitlement()
    monotonic = boottime = 0.0
    heard_monotonic, heard_boottime = -inf, -inf
    for awake_s, asleep_s, heard in steps:
        if heard:
            heard_monotonic, heard_boottime = monotonic + awake_s / 2, boottime + awake_s / 2
        monotonic, boottime = monotonic + awake_s, boottime + awake_s + asleep_s
        entitlement.tick(monotonic=monotonic, boottime=boottime, ledger_age_s=monotonic - heard_monotonic)
        assert entitlement.since() <= heard_boottime


# --- what to start and stop ---------------------------------------------------------------------------------------


def test_what_is_assigned_and_not_here_is_started() -> None:
    mine = assigned_to(HERE, [assignment("web-1", 5), assignment("web-2", 6, NodeId("there"))])
    plan = decide(mine, {}, applied=9)
    assert [wanted.replica_id for wanted in plan.start] == ["web-1"]
    assert plan.stop == ()


def test_what_is_here_and_not_assigned_is_stopped_once() -> None:
    assert decide({}, {"web-1": Running("web-1", 5, retiring=False)}, applied=9).stop == ("web-1",)
    assert decide({}, {"web-1": Running("web-1", 5, retiring=True)}, applied=9).stop == ()


def test_an_assignment_that_this_copy_never_heard_of_is_left_alone() -> None:
    """A daemon that starts with an old copy of the ledger must not kill what a newer entry put here."""
    assert decide({}, {"web-1": Running("web-1", 12, retiring=False)}, applied=9).stop == ()


def test_another_assignment_of_the_same_name_waits_until_the_old_life_is_over() -> None:
    mine = {"web-1": assignment("web-1", 8)}
    plan = decide(mine, {"web-1": Running("web-1", 5, retiring=False)}, applied=9)
    assert (plan.start, plan.stop) == ((), ("web-1",))
    plan = decide(mine, {"web-1": Running("web-1", 5, retiring=True)}, applied=9)
    assert (plan.start, plan.stop) == ((), ())


@given(
    st.dictionaries(st.sampled_from(["a-1", "a-2", "b-1"]), st.integers(1, 9)),
    st.dictionaries(st.sampled_from(["a-1", "a-2", "b-1"]), st.tuples(st.integers(1, 12), st.booleans())),
)
def test_following_the_plan_leads_to_what_is_assigned_and_never_to_two_lives(
    wanted: dict[str, int], here: dict[str, tuple[int, bool]]
) -> None:
    mine = {name: assignment(name, index) for name, index in wanted.items()}
    running = {name: Running(name, index, retiring) for name, (index, retiring) in here.items()}
    for _ in range(4):
        plan = decide(mine, running, applied=9)
        assert not {wanted.replica_id for wanted in plan.start} & set(running)
        assert set(plan.stop) <= set(running)
        ended = set(plan.stop) | {name for name, one in running.items() if one.retiring}
        running = {name: one for name, one in running.items() if name not in ended}
        running |= {one.replica_id: Running(one.replica_id, one.index, retiring=False) for one in plan.start}
    settled = {name: one.assignment_index for name, one in running.items() if one.assignment_index <= 9}
    newer = {name for name, one in running.items() if one.assignment_index > 9}
    assert settled == {name: index for name, index in wanted.items() if name not in newer}


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("python app.py", "exec python app.py"),
        ("  gunicorn -b 127.0.0.1:$PORT app:app\n", "exec gunicorn -b 127.0.0.1:$PORT app:app"),
        ("./migrate && exec ./serve", "./migrate && exec ./serve"),
        ("cat < in > out", "cat < in > out"),
        ("for n in 1 2; do echo $n; done", "for n in 1 2; do echo $n; done"),
        ("exit 3", "exit 3"),
        ("", ""),
        ("MODE=x python app.py", "MODE=x exec python app.py"),
    ],
)
def test_a_plain_command_replaces_its_shell(command: str, line: str) -> None:
    assert shell_command(command) == ("/bin/sh", "-c", line)
