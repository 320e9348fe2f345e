"""The leader's duties: from what is seen to what is proposed, and nothing sooner than it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.leader_duties import Duties, GroupFacts, KeyMaker, Plan, Seen, Sight
from consensus.ledger_entries import MarkBack, MarkOut, MarkRelearned, MarkSeen, RemoveMember, RotateKey
from consensus.ledger_state import LedgerState
from consensus.records import KeyGeneration, KeyShare, Member, MemberStatus
from consensus.voters import Candidate, next_step, voter_count
from mesh.names import NodeId
from tests.unit.consensus.test_ledger_state import NOW, Script, member

MAKER = KeyMaker(
    lambda purpose, generation, members, now: KeyGeneration(purpose, generation, now, (), False), lambda s: s
)


def ledger(*members: Member) -> LedgerState:
    """A ledger with these members; written straight into the facts, for how they came there is not the subject."""
    script = Script()
    for one in members:
        script.state._facts.members[one.node_id] = one
    key = script.state._facts.keys["gossip", 1]
    shares = tuple(KeyShare("gossip", 1, node, b"s") for node in script.state._facts.members)
    script.state._facts.keys["gossip", 1] = replace(key, shares=shares)
    return script.state


ME = member(1).node_id
IN_ORDER = GroupFacts(frozenset({ME}), frozenset(), frozenset(), changing=True)


def plan(duties: Duties, state: LedgerState, now: float, *, now_ms: int = NOW, **sights: Seen) -> Plan:
    by_id = {member(int(name[1:])).node_id: seen for name, seen in sights.items()}
    return duties.plan(now, now_ms, state, by_id, IN_ORDER)


def test_down_becomes_out_after_three_seconds_and_not_before() -> None:
    duties, state = Duties(ME, MAKER), ledger(member(2))
    early = plan(duties, state, 2.9, n2=Seen(Sight.DOWN, 0.0))
    assert early.entries == ()
    assert early.again_at == 3.0
    late = plan(duties, state, 3.0, n2=Seen(Sight.DOWN, 0.0))
    assert [type(entry) for entry in late.entries] == [MarkOut]


def test_a_flapping_node_is_given_twice_the_time_with_each_flap() -> None:
    duties, state = Duties(ME, MAKER), ledger(member(2))
    plan(duties, state, 1.0, n2=Seen(Sight.DOWN, 0.0))
    plan(duties, state, 2.0, n2=Seen(Sight.ALIVE, 2.0))
    assert plan(duties, state, 13.0, n2=Seen(Sight.DOWN, 10.0)).entries == ()
    assert plan(duties, state, 16.0, n2=Seen(Sight.DOWN, 10.0)).entries != ()
    assert plan(duties, state, 403.0, n2=Seen(Sight.DOWN, 400.0)).entries != ()


def test_suspicion_alone_moves_nothing() -> None:
    assert plan(Duties(ME, MAKER), ledger(member(2)), 100.0, n2=Seen(Sight.SUSPECT, 0.0)).entries == ()


def test_a_node_that_left_is_out_at_once_and_one_that_came_back_is_back() -> None:
    duties, state = Duties(ME, MAKER), ledger(member(2))
    (out,) = plan(duties, state, 0.0, n2=Seen(Sight.LEFT, 0.0)).entries
    assert isinstance(out, MarkOut)
    script = Script()
    script.state._facts.members[member(2).node_id] = member(2)
    script.say(out)
    key = script.state._facts.keys["gossip", 1]
    script.state._facts.keys["gossip", 1] = replace(
        key, shares=tuple(KeyShare("gossip", 1, node, b"s") for node in script.state.members)
    )
    assert plan(duties, script.state, 1.0, n2=Seen(Sight.ALIVE, 1.0)).entries == (MarkBack(member(2).node_id),)


def test_a_member_is_marked_at_first_sight_and_reaped_if_never_seen() -> None:
    unseen = replace(member(2), seen_alive=False)
    duties, state = Duties(ME, MAKER), ledger(unseen)
    assert plan(duties, state, 0.0, n2=Seen(Sight.ALIVE, 0.0)).entries == (MarkSeen((unseen.node_id,)),)
    duties = Duties(ME, MAKER)
    assert plan(duties, state, 0.0).entries == ()
    assert plan(duties, state, 599.0).entries == ()
    (reaped,) = plan(duties, state, 600.0).entries
    assert isinstance(reaped, RemoveMember)


def test_a_living_member_is_never_reaped_however_long_the_leader_was_away() -> None:
    duties, state = Duties(ME, MAKER), ledger(replace(member(2), seen_alive=False))
    plan(duties, state, 0.0)
    (seen,) = plan(duties, state, 900.0, n2=Seen(Sight.ALIVE, 899.0)).entries
    assert isinstance(seen, MarkSeen)


def test_a_key_that_a_removed_member_held_is_replaced() -> None:
    script = Script()
    script.state._facts.members[member(2).node_id] = member(2)
    script.say(RemoveMember(member(2).node_id, ""))
    (rotation,) = plan(Duties(ME, MAKER), script.state, 0.0).entries
    assert isinstance(rotation, RotateKey)
    assert rotation.key.generation == 2


def test_a_lost_log_is_forgiven_only_outside_the_configuration() -> None:
    lost = replace(member(2), relearn=True)
    duties, state = Duties(ME, MAKER), ledger(lost)
    sights = {lost.node_id: Seen(Sight.ALIVE, 0.0)}
    inside = GroupFacts(frozenset({ME, lost.node_id}), frozenset(), frozenset(), changing=False)
    told = duties.plan(0.0, NOW, state, sights, inside)
    assert told.entries == ()
    assert told.step is not None
    assert told.step.voters == {ME}
    outside = GroupFacts(frozenset({ME}), frozenset(), frozenset(), changing=False)
    assert duties.plan(0.0, NOW, state, sights, outside).entries == (MarkRelearned(lost.node_id),)


def test_a_leader_alone_owes_nobody_what_its_lost_log_had_promised() -> None:
    """It can only have got there by opening an epoch (rule T5)."""
    state = ledger()
    state._facts.members[ME] = replace(state.members[ME], relearn=True)
    alone = GroupFacts(frozenset({ME}), frozenset(), frozenset(), changing=False)
    assert Duties(ME, MAKER).plan(0.0, NOW, state, {}, alone).entries == (MarkRelearned(ME),)


# --- voters ----------------------------------------------------------------------------------------------------


def candidates(
    count: int, *, dead: tuple[int, ...] = (), caught_up: tuple[int, ...] = (), zones: str = ""
) -> dict[NodeId, Candidate]:
    made = {}
    for number in range(1, count + 1):
        zone = zones[number - 1] if zones else ""
        one = replace(member(number), zone=zone)
        made[one.node_id] = Candidate(one, number not in dead, 11.0 if number in dead else 0.0, number in caught_up)
    return made


def ids(*numbers: int) -> frozenset[NodeId]:
    return frozenset(member(number).node_id for number in numbers)


@pytest.mark.parametrize(("eligible", "voters"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (9, 5)])
def test_how_many_voters(eligible: int, voters: int) -> None:
    assert voter_count(eligible) == voters


def test_a_newcomer_is_a_learner_until_it_caught_up() -> None:
    first = next_step(ME, candidates(2), ids(1), frozenset())
    assert first is not None
    assert (first.voters, first.learners) == (ids(1), ids(2))
    assert next_step(ME, candidates(2), ids(1), ids(2)) is None
    second = next_step(ME, candidates(2, caught_up=(2,)), ids(1), ids(2))
    assert second is not None
    assert (second.voters, second.learners) == (ids(1, 2), frozenset())


def test_a_dead_voter_stays_until_somebody_can_take_its_place() -> None:
    assert next_step(ME, candidates(3, dead=(3,)), ids(1, 2, 3), frozenset()) is None
    step = next_step(ME, candidates(4, dead=(3,)), ids(1, 2, 3), frozenset())
    assert step is not None
    assert step.learners == ids(4)
    step = next_step(ME, candidates(4, dead=(3,), caught_up=(4,)), ids(1, 2, 3), ids(4))
    assert step is not None
    assert step.voters == ids(1, 2, 4)


def test_a_draining_voter_stays_until_somebody_took_its_place() -> None:
    draining = candidates(4)
    node_id = member(3).node_id
    draining[node_id] = replace(draining[node_id], member=replace(member(3), status=MemberStatus.DRAINING))
    step = next_step(ME, draining, ids(1, 2, 3), frozenset())
    assert step is not None
    assert (step.voters, step.learners) == (ids(1, 2, 3), ids(4))
    assert next_step(ME, draining, ids(1, 2, 3), ids(4)) is None
    ready = {known: replace(one, caught_up=known == member(4).node_id) for known, one in draining.items()}
    step = next_step(ME, ready, ids(1, 2, 3), ids(4))
    assert step is not None
    assert step.voters == ids(1, 2, 4)


def test_no_step_without_a_living_majority_of_the_new_voters() -> None:
    gone = candidates(3, dead=(2, 3))
    assert next_step(ME, gone, ids(1, 2, 3), frozenset()) is None


def test_voters_spread_over_zones_where_they_can() -> None:
    step = next_step(ME, candidates(4, zones="aabc"), ids(1), frozenset())
    assert step is not None
    assert step.learners >= ids(3, 4)


def test_repeated_steps_reach_a_fixed_point_from_any_size() -> None:
    for count in range(1, 10):
        voters, learners = ids(1), frozenset[NodeId]()
        caught: tuple[int, ...] = ()
        for _ in range(30):
            step = next_step(ME, candidates(count, caught_up=caught), voters, learners)
            if step is None and caught == tuple(range(1, count + 1)):
                break
            if step is not None:
                voters, learners = step.voters, step.learners
            caught = tuple(range(1, count + 1))
        assert len(voters) == voter_count(count)
        assert not learners
