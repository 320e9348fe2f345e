"""Whom an observer asks: the one that has news, and nobody for ever that has none."""

from __future__ import annotations

import random
from math import inf

from consensus.pull import LOOK_AROUND_S, STALE_S, WAIT_S, PullAnswer, Puller, PullRequest
from consensus.raft.messages import configuration_of
from mesh.names import MeshId, NodeId

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def answer(heard_s_ago: float) -> PullAnswer:
    heard_ms_ago = int(heard_s_ago * 1000)
    return PullAnswer(1, 7, None, 1, configuration_of(frozenset({A})), heard_ms_ago, (), use_snapshot=False)


def puller() -> Puller:
    made = Puller(MeshId("m"), 0, 1, position=lambda: (7, 1), rng=random.Random(1))
    made.set_sources([A, B, C], 0.0)
    made.start(0.0)
    return made


def ask(machine: Puller, now: float) -> tuple[int, NodeId, int]:
    machine.tick(now)
    pull = machine.take()
    assert pull is not None
    assert isinstance(pull.request, PullRequest)
    return pull.number, pull.to, pull.request.wait_ms


def test_a_source_that_is_in_touch_is_asked_again_and_may_wait() -> None:
    machine = puller()
    number, first, wait_ms = ask(machine, 0.0)
    assert wait_ms == WAIT_S * 1000
    machine.answered(5.0, number, answer(1.0))
    machine.go_on(5.0)
    assert ask(machine, 5.0)[1:] == (first, wait_ms)


def test_sources_that_are_out_of_touch_are_left_for_the_others_at_once() -> None:
    machine = puller()
    number, first, _ = ask(machine, 0.0)
    machine.answered(5.0, number, answer(STALE_S + 1))
    machine.go_on(5.0)
    number, second, wait_ms = ask(machine, 5.0)
    assert (wait_ms, second != first) == (0, True)
    machine.answered(5.1, number, answer(STALE_S + 1))
    machine.go_on(5.1)
    number, third, wait_ms = ask(machine, 5.1)
    assert ({first, second, third}, wait_ms) == ({A, B, C}, 0)


def test_when_all_are_out_of_touch_they_are_asked_in_turn_without_haste() -> None:
    machine = puller()
    now = 0.0
    asked = []
    for _ in range(9):
        number, to, _ = ask(machine, now)
        asked.append(to)
        now += 0.01  # such a peer does not let us wait, whatever time it is given
        machine.answered(now, number, answer(100.0))
        machine.go_on(now)
        now = max(now, machine.next_deadline())
    assert asked[:3] == asked[3:6] == asked[6:9]
    assert now >= 6 * LOOK_AROUND_S
    assert machine.next_deadline() < inf


def test_who_looks_for_a_newer_epoch_asks_every_source_however_stale_their_answers() -> None:
    """Two survivors of a lost majority asked each other for ever, and never the third that had opened the epoch."""
    for sources in ([A, B], [A, B, C]):
        machine = Puller(MeshId("m"), 0, 1, position=lambda: (7, 1), rng=random.Random(1))
        machine.set_sources(sources, 0.0)
        machine.start(0.0, patient=False)
        now, asked = 0.0, []
        for _ in sources:
            number, to, _ = ask(machine, now)
            asked.append(to)
            machine.answered(now, number, answer(STALE_S + 1))
            machine.go_on(now)
            now += LOOK_AROUND_S
        assert sorted(asked) == sources
