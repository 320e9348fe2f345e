"""Linearizable reads, as dialogues."""

from __future__ import annotations

from consensus.raft.config import RaftConfig
from consensus.raft.messages import Appended, Heartbeat, HeartbeatReply, ReadReply, ReadRequest
from consensus.raft.outputs import ReadReady, ReadRefused
from tests.unit.consensus.raft.dialogue import Dialogue, mark, names


def answers(talk: Dialogue) -> list[ReadReady | ReadRefused]:
    found = [answer for output in talk.outputs for answer in output.reads]
    talk.outputs.clear()
    return found


def ask(talk: Dialogue, token: int) -> None:
    talk.raft.read_index(talk.now, token)
    talk.take()


def test_a_read_waits_for_a_quorum_that_heard_its_round() -> None:
    talk = Dialogue((1, 2, 3, 4, 5))
    talk.become_ready_leader()
    ask(talk, 7)
    assert Heartbeat(1, 1) in talk.said_to(2)
    talk.hear(2, HeartbeatReply(1))
    assert answers(talk) == []
    talk.hear(3, HeartbeatReply(1))
    assert answers(talk) == [ReadReady(7, 1)]


def test_reads_that_come_together_share_a_round_and_later_ones_take_the_next() -> None:
    talk = Dialogue()
    talk.become_ready_leader()
    talk.raft.read_index(talk.now, 1)
    talk.raft.read_index(talk.now, 2)
    talk.take()
    ask(talk, 3)
    assert {body.round for body in talk.said_to(2, Heartbeat) if isinstance(body, Heartbeat)} == {1}
    talk.hear(2, HeartbeatReply(1))
    assert answers(talk) == [ReadReady(1, 1), ReadReady(2, 1)]
    assert Heartbeat(1, 2) in talk.said_to(2)
    talk.hear(3, HeartbeatReply(2))
    assert answers(talk) == [ReadReady(3, 1)]


def test_a_late_answer_to_an_earlier_round_proves_nothing() -> None:
    """Pitfall 10: the same token again, and the answers to its first round still on their way."""
    talk = Dialogue()
    talk.become_ready_leader()
    ask(talk, 7)
    talk.hear(2, HeartbeatReply(1))
    assert answers(talk) == [ReadReady(7, 1)]
    ask(talk, 7)
    talk.hear(3, HeartbeatReply(1))
    assert answers(talk) == []


def test_an_answer_to_a_round_that_was_never_begun_proves_nothing() -> None:
    talk = Dialogue()
    talk.become_ready_leader()
    talk.hear(2, HeartbeatReply(99))
    ask(talk, 7)
    assert answers(talk) == []


def test_answers_of_learners_and_of_older_terms_prove_nothing() -> None:
    """Pitfalls 9 and 10."""
    talk = Dialogue(learners=(4,))
    term = talk.become_ready_leader()
    ask(talk, 7)
    talk.hear(4, HeartbeatReply(1))
    talk.hear(2, HeartbeatReply(1), term=term - 1)
    assert answers(talk) == []


def test_no_read_is_answered_before_the_noop_is_committed() -> None:
    """Pitfall 4: the commit index is an inherited one until then."""
    talk = Dialogue(log=[1, 1])
    talk.become_leader()
    ask(talk, 7)
    talk.pass_time(0.15)
    talk.ack_heartbeats(2, 3)
    assert answers(talk) == []
    talk.hear(2, Appended(3))
    talk.apply()
    talk.ack_heartbeats(2, 3)
    assert answers(talk) == [ReadReady(7, 3)]


def test_a_read_is_ready_only_when_the_state_machine_here_has_the_index() -> None:
    talk = Dialogue()
    talk.become_ready_leader()
    talk.propose(b"x")
    talk.wrote()
    talk.hear(2, Appended(2))
    ask(talk, 7)
    talk.hear(2, HeartbeatReply(1))
    assert answers(talk) == []
    talk.apply()
    assert answers(talk) == [ReadReady(7, 2)]


def test_a_leader_that_ends_refuses_what_waits() -> None:
    talk = Dialogue()
    term = talk.become_ready_leader()
    ask(talk, 7)
    talk.hear(3, ReadRequest(5))
    talk.hear(2, Heartbeat(0, 0), term=term + 1)
    assert [type(answer) for answer in answers(talk)] == [ReadRefused]
    assert talk.said_to(3, ReadReply) == [ReadReply(5, mark(3).boot_nonce, -1)]


def test_waiting_reads_are_looked_at_again_when_the_quorum_changes() -> None:
    """Pitfall 10 (raft-rs #363): the change made the answers that are there enough."""
    talk = Dialogue((1, 2, 3, 4), config=RaftConfig())
    talk.become_ready_leader()
    ask(talk, 7)
    talk.hear(2, HeartbeatReply(1))
    assert answers(talk) == []
    talk.change((1, 2, 3))
    talk.wrote()
    for number in (2, 3, 4):
        talk.hear(number, Appended(2))
    assert answers(talk) == []  # joint: three of the old four are still needed
    talk.apply()
    assert talk.status.configuration.voters == names(1, 2, 3)
    assert [type(answer) for answer in answers(talk)] == [ReadReady]


def test_a_followers_read_is_answered_by_the_leader() -> None:
    """Pitfall 10."""
    talk = Dialogue(log=[1])
    talk.hear(2, Heartbeat(0, 0), term=1)
    ask(talk, 7)
    talk.says(2, ReadRequest(1))
    talk.hear(2, ReadReply(1, mark(1).boot_nonce, 1))
    assert answers(talk) == []
    talk.hear(2, Heartbeat(1, 0))
    talk.apply()
    assert answers(talk) == [ReadReady(7, 1)]


def test_an_answer_to_an_earlier_start_of_this_node_is_for_nobody() -> None:
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    ask(talk, 7)
    talk.hear(2, ReadReply(1, b"earlier", 0))
    assert answers(talk) == []


def test_a_read_without_a_leader_or_an_answer_is_refused() -> None:
    talk = Dialogue()
    ask(talk, 1)
    assert answers(talk) == [ReadRefused(1, "no leader is known")]
    talk.hear(2, Heartbeat(0, 0), term=1)
    ask(talk, 2)
    talk.pass_time(1.01)
    assert [answer.token for answer in answers(talk)] == [2]
    late = Dialogue()
    late.hear(2, Heartbeat(0, 0), term=1)
    ask(late, 3)
    for _ in range(8):
        late.pass_time(0.3)
        late.hear(2, Heartbeat(0, 0))
    assert answers(late) == [ReadRefused(3, "the leader did not answer in time")]


def test_reads_are_bounded() -> None:
    talk = Dialogue(config=RaftConfig(reads_max=2))
    talk.become_ready_leader()
    for token in (1, 2, 3):
        ask(talk, token)
    assert answers(talk) == [ReadRefused(3, "too many reads are waiting")]


def test_a_voter_alone_reads_without_asking_anyone() -> None:
    talk = Dialogue((1,))
    talk.pass_time(0)
    talk.wrote()
    talk.apply()
    ask(talk, 7)
    assert answers(talk) == [ReadReady(7, 1)]
