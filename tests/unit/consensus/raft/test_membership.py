"""Changes of who takes part, as dialogues and in the small world."""

from __future__ import annotations

import pytest

from consensus.raft.messages import (
    RAFT,
    Append,
    Appended,
    Configuration,
    EntryKind,
    HeartbeatReply,
    LogEntry,
    TimeoutNow,
    VoteReply,
    configuration_of,
)
from consensus.raft.outputs import Busy, ConfigurationChanged, NotAllowed, RaftRole, SteppedDown
from tests.unit.consensus.raft.cluster import Cluster, status
from tests.unit.consensus.raft.dialogue import Dialogue, entry, names


def config_entry(index: int, term: int, configuration: Configuration) -> LogEntry:
    return LogEntry(index, term, EntryKind.CONFIG, RAFT.encode(configuration))


def caught_up(talk: Dialogue, *numbers: int) -> None:
    """These followers have everything and live."""
    talk.wrote()
    for number in numbers:
        talk.hear(number, Appended(talk.status.last_index))
        talk.hear(number, HeartbeatReply(0))
    talk.apply()


def leader_with_learner() -> Dialogue:
    talk = Dialogue((1, 2, 3))
    talk.become_ready_leader()
    talk.change((1, 2, 3), learners=(4,))
    caught_up(talk, 2, 3, 4)
    talk.events.clear()
    talk.said.clear()
    return talk


def test_nothing_is_changed_before_the_noop_is_committed() -> None:
    """Pitfall 4: the single-server bug of raft-dev 2015 begins like this."""
    talk = Dialogue()
    talk.become_leader()
    assert isinstance(talk.change((1, 2, 3), learners=(4,)), Busy)


def test_one_change_at_a_time() -> None:
    """Pitfall 15."""
    talk = Dialogue()
    talk.become_ready_leader()
    assert talk.change((1, 2, 3), learners=(4,)) == 2
    assert isinstance(talk.change((1, 2, 3), learners=(5,)), Busy)
    caught_up(talk, 2, 3)
    assert talk.change((1, 2, 3), learners=(4, 5)) == 3


def test_a_voter_has_to_be_a_learner_that_caught_up() -> None:
    """Pitfall 12."""
    talk = Dialogue()
    talk.become_ready_leader()
    assert isinstance(talk.change((1, 2, 3, 4)), NotAllowed)
    talk.change((1, 2, 3), learners=(4,))
    caught_up(talk, 2, 3)
    assert isinstance(talk.change((1, 2, 3, 4)), NotAllowed)
    caught_up(talk, 4)
    assert isinstance(talk.change((1, 2, 3, 4)), int)


def test_a_learner_that_fell_silent_is_not_promoted() -> None:
    """Pitfall 12."""
    talk = leader_with_learner()
    for _ in range(8):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
        talk.hear(3, HeartbeatReply(0))
    assert isinstance(talk.change((1, 2, 3, 4)), NotAllowed)


def test_a_change_that_leaves_no_live_quorum_is_refused() -> None:
    """Fault O1."""
    talk = Dialogue((1, 2, 3))
    talk.become_ready_leader()
    for _ in range(8):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
    assert isinstance(talk.change((1, 3)), NotAllowed)
    assert isinstance(talk.change((1, 2)), int)


def test_a_change_of_voters_is_joint_and_left_once_after_apply() -> None:
    """Pitfall 13."""
    talk = leader_with_learner()
    index = talk.change((1, 2, 4))
    joint = Configuration(names(1, 2, 4), names(1, 2, 3), frozenset())
    assert talk.events == [ConfigurationChanged(index, joint)]
    talk.wrote()
    talk.hear(2, Appended(3))
    talk.hear(3, Appended(3))
    assert talk.status.commit == 3  # {1,2,3}, and {1,2} of the new half
    assert talk.status.configuration == joint  # committed, and not applied yet
    talk.apply()
    assert talk.status.configuration == configuration_of(names(1, 2, 4))
    assert talk.status.last_index == 4
    talk.raft.applied_to(talk.now, 3)
    talk.take()
    assert talk.status.last_index == 4


def test_a_joint_entry_needs_both_majorities() -> None:
    """Pitfall 13."""
    talk = Dialogue((1, 2, 3), learners=(4, 5))
    talk.become_ready_leader()
    caught_up(talk, 2, 3, 4, 5)
    index = talk.change((1, 4, 5))
    assert isinstance(index, int)
    talk.wrote()
    talk.hear(4, Appended(index))
    talk.hear(5, Appended(index))
    assert talk.status.commit < index
    talk.hear(2, Appended(index))
    assert talk.status.commit == index


def test_an_election_in_a_joint_configuration_needs_both_majorities() -> None:
    """Pitfall 13."""
    talk = Dialogue(configuration=Configuration(names(1, 2, 3), names(1, 4, 5), frozenset()))
    talk.win_pre_vote()
    talk.wrote()
    talk.hear(2, VoteReply(granted=True))
    talk.hear(3, VoteReply(granted=True))
    assert talk.status.role is RaftRole.CANDIDATE
    talk.hear(4, VoteReply(granted=True))
    assert talk.status.role is RaftRole.LEADER


def test_a_leader_elected_in_a_joint_configuration_leaves_it() -> None:
    joint = Configuration(names(1, 2, 3), names(1, 2, 4), frozenset())
    talk = Dialogue((1, 2, 4), entries=[entry(1, 1), config_entry(2, 1, joint)], term=1)
    talk.become_leader()
    for number in (2, 3, 4):
        talk.hear(number, Appended(3))
    assert talk.status.configuration == joint
    talk.apply()
    assert talk.status.configuration == configuration_of(names(1, 2, 3))


def test_a_configuration_acts_from_append_and_reverts_on_truncation() -> None:
    """Pitfall 14: peers and quorum come from the same entry."""
    old = configuration_of(names(1, 2, 3))
    new = Configuration(names(1, 2, 4), names(1, 2, 3), frozenset())
    talk = Dialogue((1, 2, 3))
    talk.hear(2, Append(0, 0, 0, (entry(1, 1), config_entry(2, 1, new))), term=1)
    assert talk.status.configuration == new
    talk.hear(3, Append(1, 1, 0, (entry(2, 2),)), term=2)
    assert talk.status.configuration == old
    assert talk.events[-1] == ConfigurationChanged(0, old)


def test_a_snapshots_configuration_is_the_committed_one_at_its_index() -> None:
    """Pitfall 16: not the one that acts."""
    old = configuration_of(names(1, 2, 3))
    talk = Dialogue((1, 2, 3))
    talk.become_ready_leader()
    talk.change((1, 2, 3), learners=(4,))
    meta = talk.raft.snapshot_meta(1)
    assert meta.configuration == old
    talk.raft.snapshot_taken(talk.now, meta)
    assert talk.status.configuration == configuration_of(names(1, 2, 3), names(4))


def test_learners_do_not_count() -> None:
    """Pitfall 9's rule for leases holds for every quorum here."""
    talk = Dialogue((1, 2, 3), learners=(4, 5, 6))
    talk.become_ready_leader()
    talk.propose(b"x")
    talk.wrote()
    for number in (4, 5, 6):
        talk.hear(number, Appended(2))
    assert talk.status.commit == 1


def test_a_removed_voters_acknowledgement_does_not_count() -> None:
    """Pitfall 15."""
    talk = Dialogue((1, 2, 3, 4, 5))
    talk.become_ready_leader()
    talk.change((1, 2, 3))
    caught_up(talk, 2, 3, 4, 5)
    caught_up(talk, 2, 3)
    assert talk.status.configuration == configuration_of(names(1, 2, 3))
    talk.propose(b"x")
    talk.wrote()
    talk.hear(4, Appended(talk.status.last_index))
    talk.hear(5, Appended(talk.status.last_index))
    assert talk.status.commit < talk.status.last_index
    talk.hear(2, Appended(talk.status.last_index))
    assert talk.status.commit == talk.status.last_index


def test_a_leader_outside_the_new_configuration_leads_until_it_is_committed_and_hands_over() -> None:
    talk = Dialogue((1, 2, 3))
    talk.become_ready_leader()
    talk.change((2, 3))
    caught_up(talk, 2, 3)
    assert talk.status.role is RaftRole.LEADER and talk.status.configuration == configuration_of(names(2, 3))
    talk.said.clear()
    talk.wrote()
    talk.hear(2, Appended(talk.status.last_index))
    assert talk.status.role is RaftRole.LEADER  # it does not count itself
    talk.hear(3, Appended(talk.status.last_index))
    assert talk.status.role is RaftRole.FOLLOWER and talk.has(SteppedDown)
    assert [body for _, body, _ in talk.said if isinstance(body, TimeoutNow)] == [TimeoutNow()]


def test_a_voter_to_be_may_stand_for_what_only_it_holds() -> None:
    """Pitfall 17 forbids campaigning with a change about oneself under way; with joint changes that would deadlock.

    The joint entry is committed, n4 and n5 do not know it, n1 is dead, and only n4 and n5 hold what came after.
    """
    joint = Configuration(names(1, 4, 5), names(1, 2, 3), frozenset())
    entries = [entry(1, 1), config_entry(2, 1, joint), entry(3, 1)]
    talk = Dialogue((1, 2, 3), me=4, entries=entries, term=1)
    talk.win_pre_vote()
    talk.wrote()
    for number in (2, 3, 5):
        talk.hear(number, VoteReply(granted=True))
    assert talk.status.role is RaftRole.LEADER


def test_a_voter_that_an_uncommitted_entry_takes_out_may_stand_and_afterwards_may_not() -> None:
    """Thesis §4.2.2."""
    entries = [entry(1, 1), config_entry(2, 1, configuration_of(names(2, 3)))]
    talk = Dialogue((1, 2, 3), entries=entries, term=1)
    talk.win_pre_vote()
    out = Dialogue((1, 2, 3), entries=entries, term=1, applied=2)
    out.pass_time(3)
    assert out.status.role is RaftRole.FOLLOWER and out.said == []


def test_a_group_grows_from_one_to_five_and_every_voter_may_then_be_replaced() -> None:
    cluster = Cluster(7, 1)
    cluster.elect()
    voters = {1}
    for number in (2, 3, 4, 5, 6):
        cluster.add(number)
        cluster.change(voters, {number})
        cluster.propose(f"before {number}")
        cluster.run_for(1)
        voters |= {number}
        if number == 6:
            voters -= {1}
        assert isinstance(cluster.change(voters, set()), int)
        cluster.run_for(2)
        leader = cluster.elect()
        assert status(leader).configuration == configuration_of(names(*voters))
    cluster.node(1).crash()
    cluster.node(2).crash()
    cluster.run_for(3)
    sent = cluster.propose("two of five are dead")
    cluster.run_for(2)
    assert sent is not None and cluster.acknowledged >= sent[0]
    cluster.check_logs()


def test_a_majority_may_be_replaced_at_once() -> None:
    cluster = Cluster(8, 3)
    leader = cluster.elect()
    for number in (4, 5, 6):
        cluster.add(number)
    cluster.change({1, 2, 3}, {4, 5, 6})
    cluster.run_for(1)
    assert isinstance(cluster.change({4, 5, 6}, set()), int)
    cluster.run_for(3)
    leader = cluster.elect()
    assert leader.node_id in names(4, 5, 6)
    for number in (1, 2, 3):
        cluster.node(number).crash()
    sent = cluster.propose("all new")
    cluster.run_for(1)
    assert sent is not None and cluster.acknowledged >= sent[0]


@pytest.mark.parametrize(
    ("voters", "learners", "reason"),
    [
        ((), (), "a group needs a voter"),
        ((1, 2, 3), (3,), "either a voter or a learner"),
        ((1, 2, 3), (4,), "nothing would change"),
        ((1, 2, 3, 5), (4,), "n5 has to be a learner first"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_refused_with_its_reason(
    voters: tuple[int, ...], learners: tuple[int, ...], reason: str
) -> None:
    talk = leader_with_learner()
    before = talk.status
    refusal = talk.change(voters, learners)
    assert isinstance(refusal, NotAllowed) and reason in refusal.reason
    assert talk.status == before
