"""Elections, as dialogues. The pitfalls are those of the page on faults, section 2."""

from __future__ import annotations

import pytest

from consensus.raft.messages import (
    Append,
    Appended,
    HardState,
    Heartbeat,
    HeartbeatReply,
    PreVoteReply,
    PreVoteRequest,
    SnapshotChunk,
    SnapshotMeta,
    TermOver,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    configuration_of,
)
from consensus.raft.outputs import BecameLeader, LeaderReady, NotLeader, RaftRole, SteppedDown
from tests.unit.consensus.raft.dialogue import Dialogue, entry, mark, name, names


def test_a_vote_is_told_only_after_the_disk_has_it() -> None:
    """Pitfall 1."""
    talk = Dialogue()
    talk.hear(2, VoteRequest(0, 0, transfer=False), term=5)
    talk.says_nothing_of(VoteReply)
    assert talk.writing is not None and talk.writing.hard_state == HardState(5, name(2))
    talk.wrote()
    talk.says(2, VoteReply(granted=True))


def test_votes_are_asked_for_and_the_own_one_counted_only_after_the_disk_has_them() -> None:
    """Pitfall 1."""
    talk = Dialogue()
    talk.win_pre_vote()
    assert talk.said_to(2, VoteRequest) == []
    talk.hear(2, VoteReply(granted=True))
    assert talk.status.role is RaftRole.CANDIDATE
    talk.wrote()
    assert talk.status.role is RaftRole.LEADER


def test_a_vote_is_never_given_twice_in_a_term() -> None:
    """Pitfall 1: nor forgotten by a restart, a timeout or a pre-vote of its own."""
    talk = Dialogue(term=5, vote=2)
    talk.pass_time(1.01)
    assert talk.status.role is RaftRole.PRE_CANDIDATE
    talk.said.clear()
    talk.hear(3, VoteRequest(0, 0, transfer=False), term=5)
    talk.says(3, VoteReply(granted=False))
    talk.hear(2, VoteRequest(0, 0, transfer=False), term=5)
    talk.wrote()
    talk.says(2, VoteReply(granted=True))


def test_a_leader_that_gives_up_keeps_its_vote_for_that_term() -> None:
    """Pitfall 1."""
    talk = Dialogue()
    term = talk.become_ready_leader()
    talk.raft.step_down(talk.now, "a test")
    talk.take()
    talk.wrote()
    talk.said.clear()
    talk.hear(3, VoteRequest(9, term, transfer=True), term=term)
    talk.says(3, VoteReply(granted=False))


def test_a_log_that_is_behind_gets_no_vote() -> None:
    talk = Dialogue(log=[1, 1, 3])
    for last_index, last_term, granted in [(9, 2, False), (2, 3, False), (3, 3, True), (1, 4, True)]:
        other = Dialogue(log=[1, 1, 3])
        other.hear(2, VoteRequest(last_index, last_term, transfer=False), term=7)
        other.wrote()
        other.says(2, VoteReply(granted))
    assert talk.status.term == 3


def test_a_pre_vote_changes_nothing_at_who_is_asked() -> None:
    """Pitfall 6: neither term, vote nor timer: to grant one is not to hear a leader."""
    talk = Dialogue(term=3)
    before = talk.raft.next_deadline()
    talk.hear(2, PreVoteRequest(for_term=9, last_index=0, last_term=0), term=8)
    talk.says(2, PreVoteReply(for_term=9, granted=True))
    assert (talk.status.term, talk.writing, talk.raft.next_deadline()) == (3, None, before)


def test_a_pre_vote_is_answered_with_the_term_that_was_asked_about() -> None:
    """Pitfall 5: a candidate counts the grant of a replica in an older term."""
    talk = Dialogue(term=9)
    talk.pass_time(1.01)
    assert talk.status.role is RaftRole.PRE_CANDIDATE
    talk.hear(2, PreVoteReply(for_term=10, granted=True), term=3)
    assert talk.status.role is RaftRole.CANDIDATE


def test_a_pre_vote_answer_about_another_term_does_not_count() -> None:
    talk = Dialogue(term=9)
    talk.pass_time(1.01)
    talk.hear(2, PreVoteReply(for_term=9, granted=True), term=3)
    assert talk.status.role is RaftRole.PRE_CANDIDATE


def test_a_refused_pre_vote_tells_who_is_behind_the_term() -> None:
    talk = Dialogue(term=4)
    talk.pass_time(1.01)
    talk.hear(2, PreVoteReply(for_term=5, granted=False), term=8)
    assert (talk.status.role, talk.status.term) == (RaftRole.FOLLOWER, 8)


def test_a_pre_candidate_forgets_its_leader() -> None:
    """Pitfall 6: or it would refuse the others, who wait for it."""
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    assert talk.status.leader == name(2)
    talk.pass_time(1.01)
    assert talk.status.leader is None
    talk.said.clear()
    talk.hear(3, PreVoteRequest(2, 0, 0))
    talk.says(3, PreVoteReply(2, granted=True))


def test_who_heard_the_leader_lately_helps_nobody_to_replace_it() -> None:
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    talk.said.clear()
    talk.pass_time(0.4)
    talk.hear(3, PreVoteRequest(2, 9, 9))
    talk.hear(3, VoteRequest(9, 9, transfer=False), term=2)
    assert talk.said == [] and talk.status.term == 1
    talk.pass_time(0.11)
    talk.hear(3, VoteRequest(9, 9, transfer=False), term=2)
    talk.wrote()
    talk.says(3, VoteReply(granted=True))


def test_leadership_handed_over_by_the_leader_needs_no_pre_vote_and_no_silence() -> None:
    """Pitfall 8."""
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    talk.hear(3, VoteRequest(0, 0, transfer=True), term=2)
    talk.wrote()
    talk.says(3, VoteReply(granted=True))

    target = Dialogue()
    target.hear(2, TimeoutNow(), term=1)
    target.wrote()
    target.says(2, VoteRequest(0, 0, transfer=True))
    assert target.said_to(2, PreVoteRequest) == []


def test_a_link_closed_by_the_leaders_kernel_starts_a_pre_vote_at_once() -> None:
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    talk.raft.peer_link_closed(talk.now, name(2))
    talk.pass_time(0.08)
    talk.says(3, PreVoteRequest(2, 0, 0))


def test_a_leader_whose_link_is_closed_is_not_shielded() -> None:
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    talk.raft.peer_link_closed(talk.now, name(2))
    talk.hear(3, PreVoteRequest(2, 0, 0))
    talk.says(3, PreVoteReply(2, granted=True))
    talk.pass_time(0.03)
    talk.says_nothing_of(PreVoteRequest)  # n3 was first: it gets its chance


def test_a_leader_that_speaks_again_after_its_link_closed_is_followed() -> None:
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    talk.raft.peer_link_closed(talk.now, name(2))
    talk.hear(2, Heartbeat(0, 0))
    talk.pass_time(0.4)
    talk.says_nothing_of(PreVoteRequest)


def test_a_link_closed_by_the_kernel_of_who_was_voted_for_starts_a_pre_vote_too() -> None:
    """It won and died before its first word, or it will never win."""
    talk = Dialogue()
    talk.hear(2, VoteRequest(0, 0, transfer=False), term=1)
    talk.wrote()
    talk.raft.peer_link_closed(talk.now, name(2))
    talk.pass_time(0.08)
    talk.says(3, PreVoteRequest(2, 0, 0))


def test_a_closed_link_to_another_follower_means_nothing() -> None:
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    talk.raft.peer_link_closed(talk.now, name(3))
    talk.pass_time(0.4)
    talk.says_nothing_of(PreVoteRequest)


def test_a_leader_of_an_older_term_is_told() -> None:
    """Pitfall 7: silence would deadlock, as nobody else may raise its term."""
    talk = Dialogue(term=6)
    talk.hear(2, Heartbeat(0, 0), term=4)
    talk.says(2, TermOver())

    leader = Dialogue()
    leader.become_ready_leader()
    leader.hear(3, TermOver(), term=9)
    assert (leader.status.role, leader.status.term) == (RaftRole.FOLLOWER, 9)


@pytest.mark.parametrize("learners", [(), (1,)])
def test_learners_answer_vote_requests(learners: tuple[int, ...]) -> None:
    """Pitfall 11: it may have been promoted, or added, without knowing."""
    talk = Dialogue((2, 3), learners=learners)
    talk.hear(2, PreVoteRequest(2, 0, 0), term=1)
    talk.says(2, PreVoteReply(2, granted=True))
    talk.hear(2, VoteRequest(0, 0, transfer=False), term=2)
    talk.wrote()
    talk.says(2, VoteReply(granted=True))


@pytest.mark.parametrize("learners", [(), (1,)])
def test_who_is_no_voter_never_campaigns(learners: tuple[int, ...]) -> None:
    """Pitfall 17."""
    talk = Dialogue((2, 3), learners=learners)
    talk.pass_time(5)
    talk.hear(2, TimeoutNow(), term=1)
    talk.wrote()
    talk.says_nothing_of(PreVoteRequest, VoteRequest)


def test_nobody_campaigns_while_a_snapshot_is_pending() -> None:
    """Pitfall 17."""
    talk = Dialogue()
    meta = SnapshotMeta(9, 1, configuration_of(names(1, 2, 3)))
    talk.hear(2, SnapshotChunk(meta, 0, b"all", done=True), term=1)
    talk.pass_time(5)
    talk.says_nothing_of(PreVoteRequest)


def test_nobody_says_anything_after_a_write_error() -> None:
    """Pitfall 17, fault D2: not even that it is there."""
    talk = Dialogue()
    talk.hear(2, VoteRequest(0, 0, transfer=False), term=5)
    talk.raft.disk_failed(talk.now)
    talk.wrote()
    talk.said.clear()
    talk.hear(2, Heartbeat(0, 0), term=5)
    talk.pass_time(10)
    assert talk.said == []


def test_a_leader_with_a_failed_disk_is_none() -> None:
    talk = Dialogue()
    talk.become_ready_leader()
    talk.raft.disk_failed(talk.now)
    talk.take()
    assert talk.has(SteppedDown)
    assert isinstance(talk.propose(b"x"), NotLeader)


def test_a_replica_with_a_new_store_neither_votes_nor_stands_until_it_is_allowed() -> None:
    """Fault D5."""
    talk = Dialogue(may_vote=False)
    talk.hear(2, VoteRequest(9, 9, transfer=False), term=4)
    talk.wrote()
    talk.says(2, VoteReply(granted=False))
    talk.hear(2, PreVoteRequest(6, 9, 9), term=5)
    talk.says(2, PreVoteReply(6, granted=False))
    talk.pass_time(5)
    talk.says_nothing_of(PreVoteRequest)
    talk.raft.allow_votes(talk.now)
    talk.pass_time(1.01)
    assert talk.status.role is RaftRole.PRE_CANDIDATE


def test_a_replica_alone_elects_itself_at_once() -> None:
    talk = Dialogue((1,))
    talk.pass_time(0)
    talk.wrote()
    assert talk.status.ready and talk.has(BecameLeader) and talk.has(LeaderReady)


def test_a_replay_never_shows_a_group_of_one() -> None:
    """Pitfall 16: the group was made by n1 alone; the entry that brought the others is in its log."""
    from consensus.raft.messages import RAFT, EntryKind, LogEntry

    grown = LogEntry(2, 1, EntryKind.CONFIG, RAFT.encode(configuration_of(names(1, 2, 3))))
    talk = Dialogue((1,), entries=[entry(1, 1), grown], term=1)
    talk.pass_time(3)
    talk.wrote()
    assert talk.status.role is RaftRole.PRE_CANDIDATE


def test_a_leader_that_hears_no_quorum_steps_down() -> None:
    """CheckQuorum is always on (pitfall 6)."""
    talk = Dialogue((1, 2, 3, 4, 5))
    talk.become_ready_leader()
    for _ in range(10):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
    assert talk.status.role is not RaftRole.LEADER and talk.has(SteppedDown)


def test_a_leader_that_hears_a_quorum_goes_on() -> None:
    talk = Dialogue((1, 2, 3, 4, 5))
    talk.become_ready_leader()
    for _ in range(40):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
        talk.hear(3, HeartbeatReply(0))
    assert talk.status.role is RaftRole.LEADER


def test_a_leader_that_slept_steps_down_before_it_speaks() -> None:
    """Fault C3: whatever it missed, its first tick finds that it heard nobody."""
    talk = Dialogue()
    talk.become_ready_leader()
    talk.now += 30
    talk.raft.tick(talk.now)
    talk.take()
    assert talk.status.role is RaftRole.FOLLOWER
    talk.says_nothing_of(Heartbeat, Append)


def test_a_leader_whose_disk_is_silent_for_two_election_timeouts_hands_over() -> None:
    """Fault D8; and it does not stand again while the disk is silent."""
    talk = Dialogue()
    talk.become_ready_leader()
    talk.propose(b"stuck")
    for _ in range(11):
        talk.pass_time(0.15)
        talk.ack_heartbeats(2, 3)
        talk.hear(2, Appended(2))
    assert talk.status.role is RaftRole.FOLLOWER
    assert TimeoutNow() in talk.said_to(2)
    talk.said.clear()
    talk.pass_time(5)
    talk.says_nothing_of(PreVoteRequest)
    talk.wrote()
    talk.pass_time(1.01)
    assert talk.status.role is RaftRole.PRE_CANDIDATE


def test_another_epochs_messages_are_not_looked_at() -> None:
    """Rule T5."""
    from consensus.raft.messages import Envelope, EpochOver
    from consensus.raft.outputs import NewerEpochSeen
    from tests.unit.consensus.raft.dialogue import EPOCH, GROUP

    talk = Dialogue()
    talk.raft.receive(0, Envelope(GROUP, EPOCH - 1, 9, mark(2), Heartbeat(0, 0)))
    talk.take()
    talk.says(2, EpochOver())
    talk.raft.receive(0, Envelope(GROUP, EPOCH - 1, 9, mark(2), EpochOver()))
    talk.take()
    assert talk.said == [] and talk.status.term == 0
    for _ in range(2):
        talk.raft.receive(0, Envelope(GROUP, EPOCH + 1, 9, mark(2), Heartbeat(0, 0)))
        talk.take()
    assert talk.events == [NewerEpochSeen(EPOCH + 1, name(2))]
    assert talk.said == [] and talk.status.term == 0


def test_a_slow_link_widens_the_timeouts() -> None:
    talk = Dialogue()
    talk.raft.set_round_trip(0.2)
    talk.hear(2, Heartbeat(0, 0), term=1)
    assert talk.raft.next_deadline() - talk.now >= 2.0


def test_two_leaders_in_a_term_stop_the_program() -> None:
    """It cannot be; should it be, going on would make it worse."""
    talk = Dialogue()
    talk.become_ready_leader()
    with pytest.raises(AssertionError, match="leads in term"):
        talk.hear(2, Heartbeat(0, 0))


def test_time_does_not_run_backwards() -> None:
    talk = Dialogue()
    talk.pass_time(1)
    with pytest.raises(AssertionError, match="backwards"):
        talk.raft.tick(0.5)


def test_another_groups_message_is_not_looked_at() -> None:
    """Pitfall 30: every message names its group, term and replica."""
    from consensus.raft.messages import Envelope
    from tests.unit.consensus.raft.dialogue import EPOCH, GROUP

    talk = Dialogue()
    talk.raft.receive(0, Envelope(GROUP + 1, EPOCH, 9, mark(2), Heartbeat(0, 0)))
    talk.take()
    assert talk.said == [] and talk.status.term == 0


def test_a_configuration_of_constants_that_cannot_work_is_refused() -> None:
    from consensus.raft.config import RaftConfig

    for wrong in ({"heartbeat_s": 0.3}, {"election_max_s": 0.4}, {"batch_entries_max": 0}, {"reads_max": 0}):
        with pytest.raises(ValueError, match="must"):
            RaftConfig(**wrong)  # type: ignore[arg-type]
