"""The log on its way, as dialogues: follower's side first, then the leader's."""

from __future__ import annotations

from consensus.raft.config import RaftConfig
from consensus.raft.messages import (
    Append,
    Appended,
    AppendRefused,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    LogEntry,
    PreVoteRequest,
)
from consensus.raft.outputs import Busy, NotAllowed, NotLeader
from tests.unit.consensus.raft.dialogue import Dialogue, entry, mark, name

# --- the follower ---------------------------------------------------------------------------------------------


def test_an_append_is_acknowledged_after_the_disk_has_it() -> None:
    """Pitfall 2."""
    talk = Dialogue()
    talk.hear(2, Append(0, 0, 0, (entry(1, 1),)), term=1)
    talk.says_nothing_of(Appended)
    talk.wrote()
    talk.says(2, Appended(1))


def test_an_acknowledgement_waits_for_its_own_write_and_not_the_one_before() -> None:
    """Pitfall 2: the second Append came while the first was being written."""
    talk = Dialogue()
    talk.hear(2, Append(0, 0, 0, (entry(1, 1),)), term=1)
    talk.hear(2, Append(1, 1, 0, (entry(2, 1),)))
    first = talk.writing
    assert first is not None and first.entries == (entry(1, 1),)
    talk.raft.persisted(talk.now, first.ticket)
    talk.writing = None
    talk.said += talk._after
    talk.take()
    assert talk.said_to(2, Appended) == [Appended(1)]
    talk.wrote()
    assert talk.said_to(2, Appended) == [Appended(1), Appended(2)]


def test_a_completion_of_another_write_says_nothing() -> None:
    """Pitfall 26."""
    talk = Dialogue()
    talk.hear(2, Append(0, 0, 0, (entry(1, 1),)), term=1)
    old = talk.writing
    assert old is not None
    talk.wrote()
    talk.said.clear()
    talk.hear(2, Append(1, 1, 0, (entry(2, 1),)))
    talk.raft.persisted(talk.now, old.ticket)
    talk.take()
    assert talk.said == [] and talk.status.stable_index == 1


def test_what_does_not_fit_is_refused_with_a_hint() -> None:
    talk = Dialogue(log=[1, 1, 1, 4, 4])
    talk.hear(2, Append(9, 6, 0, ()), term=6)
    talk.says(2, AppendRefused(9, 5, 4))
    talk.hear(2, Append(5, 3, 0, ()))
    talk.says(2, AppendRefused(5, 3, 1))


def test_an_append_that_is_short_late_or_doubled_cuts_nothing() -> None:
    """Pitfall 19."""
    talk = Dialogue(log=[1, 1, 1])
    talk.hear(2, Append(0, 0, 0, (entry(1, 1),)), term=1)
    talk.hear(2, Append(1, 1, 0, ()))
    talk.says(2, Appended(1))
    assert talk.status.last_index == 3 and talk.writing is None


def test_the_log_is_cut_at_the_first_conflict() -> None:
    talk = Dialogue(log=[1, 1, 1])
    talk.hear(2, Append(1, 1, 0, (entry(2, 1), entry(3, 2), entry(4, 2))), term=2)
    assert talk.writing is not None
    assert (talk.writing.truncate_from, talk.writing.entries) == (3, (entry(3, 2), entry(4, 2)))
    talk.wrote()
    talk.says(2, Appended(4))


def test_an_append_before_the_commit_index_is_answered_with_it() -> None:
    talk = Dialogue(log=[1, 1, 1], applied=2)
    talk.hear(2, Append(0, 0, 0, ()), term=1)
    talk.wrote()
    talk.says(2, Appended(2))


def test_only_what_the_message_verified_is_committed() -> None:
    """Pitfall 20: entry 2 may be one that the leader never had."""
    talk = Dialogue(log=[1, 1])
    talk.hear(2, Append(1, 1, 2, ()), term=3)
    assert talk.status.commit == 1
    talk.hear(2, Append(1, 1, 0, (entry(2, 3),)))
    assert talk.status.commit == 1


def test_a_heartbeat_commits_nothing_that_is_not_there() -> None:
    talk = Dialogue(log=[1])
    talk.hear(2, Heartbeat(5, 0), term=1)
    assert talk.status.commit == 0
    talk.says(2, HeartbeatReply(0))


def test_an_append_whose_entries_do_not_follow_each_other_is_dropped() -> None:
    talk = Dialogue()
    for entries in [(entry(2, 1),), (entry(1, 1), entry(3, 1)), (entry(1, 2), entry(2, 1))]:
        talk.hear(2, Append(0, 0, 0, entries), term=2)
    assert talk.status.last_index == 0
    talk.says_nothing_of(Appended, AppendRefused)


def test_an_acknowledgement_of_an_older_term_is_never_said_in_a_later_one() -> None:
    """What it speaks of may be cut before it is durable."""
    talk = Dialogue()
    talk.hear(2, Append(0, 0, 0, (entry(1, 1),)), term=1)
    talk.hear(2, Append(1, 1, 0, (entry(2, 1),)))
    talk.hear(3, Append(1, 1, 0, (entry(2, 2),)), term=2)
    talk.wrote()
    assert talk.said_to(2, Appended) == [Appended(1)]  # attached to the write that was under way
    assert talk.said_to(3, Appended) == [Appended(2)]
    assert talk.status.stable_index == 2


# --- the leader -----------------------------------------------------------------------------------------------


def test_a_new_leader_appends_a_noop_of_its_term() -> None:
    """Pitfall 4."""
    talk = Dialogue(log=[1])
    term = talk.become_leader()
    noop = LogEntry(2, term, EntryKind.NOOP, b"")
    assert talk.outputs and any(out.persist and noop in out.persist.entries for out in talk.outputs)
    assert talk.status.ready is False
    talk.hear(2, Appended(2))
    assert talk.status.ready is True
    assert talk.committed == [entry(1, 1), noop]


def test_the_leader_counts_itself_only_after_its_own_disk() -> None:
    """Pitfall 2: two of three have it, and one of the two is the leader's memory."""
    talk = Dialogue()
    talk.become_ready_leader()
    talk.propose(b"x")
    talk.hear(2, Appended(2))
    assert talk.status.commit == 1
    talk.wrote()
    assert talk.status.commit == 2


def test_followers_may_commit_what_the_leaders_disk_does_not_have_yet() -> None:
    """Thesis §10.2.1; it is applied at the leader only when its own disk has it."""
    talk = Dialogue()
    talk.become_ready_leader()
    talk.committed.clear()
    talk.propose(b"x")
    talk.hear(2, Appended(2))
    talk.hear(3, Appended(2))
    assert talk.status.commit == 2 and talk.committed == []
    talk.wrote()
    assert [committed.index for committed in talk.committed] == [2]


def test_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """Pitfall 3, thesis figure 3.7: entry 1 is everywhere and could still be replaced."""
    talk = Dialogue(log=[1])
    talk.become_leader()
    talk.hear(2, Appended(1))
    talk.hear(3, Appended(1))
    assert talk.status.commit == 0
    talk.hear(3, Appended(2))
    assert talk.status.commit == 2


def test_acknowledgements_of_strangers_and_the_removed_do_not_count() -> None:
    """Pitfall 15."""
    talk = Dialogue((1, 2, 3, 4, 5), learners=(6,))
    talk.become_ready_leader()
    talk.propose(b"x")
    talk.wrote()
    for number in (6, 7, 8, 9):
        talk.hear(number, Appended(2))
    assert talk.status.commit == 1


def test_acknowledgements_beyond_the_log_are_not_believed() -> None:
    talk = Dialogue()
    talk.become_ready_leader()
    talk.hear(2, Appended(99))
    assert talk.status.commit == 1


def test_what_is_proposed_between_two_outputs_travels_together() -> None:
    talk = Dialogue()
    talk.become_ready_leader()
    for payload in (b"a", b"b", b"c"):
        talk.raft.propose(talk.now, [payload])
    talk.take()
    (append,) = talk.said_to(2, Append)
    assert isinstance(append, Append) and [sent.payload for sent in append.entries] == [b"a", b"b", b"c"]


def test_appends_are_pipelined_up_to_the_window_and_it_is_empty_at_rest() -> None:
    """Pitfall 25."""
    talk = Dialogue(config=RaftConfig(batch_entries_max=1, inflight_messages_max=3))
    talk.become_ready_leader()
    talk.propose(*[b"x"] * 5)
    assert [append.prev_index for append in talk.said_to(2, Append) if isinstance(append, Append)] == [1, 2, 3]
    talk.wrote()
    talk.hear(2, Appended(4))
    assert len(talk.said_to(2, Append)) == 5
    for number in (2, 3):
        talk.hear(number, Appended(4))
        talk.hear(number, Appended(6))
    assert [(peer.inflight_messages, peer.inflight_bytes) for peer in talk.status.progress] == [(0, 0), (0, 0)]
    assert talk.status.uncommitted_bytes == 0


def test_a_follower_that_lost_messages_is_found_by_its_next_heartbeat_reply() -> None:
    talk = Dialogue(config=RaftConfig(batch_entries_max=1))
    talk.become_ready_leader()
    talk.propose(b"a", b"b")
    talk.said.clear()
    talk.hear(2, HeartbeatReply(0))
    talk.says(2, Append(3, talk.status.term, 1, ()))
    talk.hear(2, AppendRefused(3, 1, talk.status.term))
    (again,) = talk.said_to(2, Append)
    assert isinstance(again, Append) and (again.prev_index, len(again.entries)) == (1, 1)


def test_an_answer_to_an_older_append_changes_nothing() -> None:
    talk = Dialogue()
    talk.become_ready_leader()
    before = talk.status.progress
    talk.hear(2, AppendRefused(1, 0, 0))
    talk.hear(2, Appended(0))
    assert [(peer.match, peer.next_index, peer.state) for peer in talk.status.progress] == [
        (peer.match, peer.next_index, peer.state) for peer in before
    ]


def test_logs_that_differ_are_brought_together_from_where_they_agree() -> None:
    """Thesis figure 3.6: a follower with a long run of another term costs two messages, not one an entry."""
    talk = Dialogue(log=[1, 1, 1, 4, 4, 5, 5, 6, 6, 6])
    talk.become_leader()
    talk.said.clear()
    talk.hear(2, AppendRefused(10, 11, 3))
    (append,) = talk.said_to(2, Append)
    assert isinstance(append, Append) and (append.prev_index, append.prev_term) == (3, 1)


def test_a_follower_that_lost_its_log_is_fed_from_the_beginning() -> None:
    """Rule T3: another store under the same name; what the old one acknowledged is not there."""
    talk = Dialogue()
    term = talk.become_ready_leader()
    talk.hear(2, HeartbeatReply(0), sender=mark(2, store=9))
    talk.hear(2, AppendRefused(1, 0, 0), sender=mark(2, store=9))
    peer = next(peer for peer in talk.status.progress if peer.node_id == name(2))
    assert peer.match == 0
    assert Append(0, 0, 1, (LogEntry(1, term, EntryKind.NOOP, b""),)) in talk.said_to(2, Append)


def test_a_heartbeats_commit_index_is_never_above_what_its_receiver_acknowledged() -> None:
    talk = Dialogue()
    talk.become_ready_leader(2)
    talk.pass_time(0.15)
    assert Heartbeat(1, 0) in talk.said_to(2, Heartbeat)
    assert set(talk.said_to(3, Heartbeat)) == {Heartbeat(0, 0)}


def test_proposals_beyond_the_limit_are_refused_until_some_commit() -> None:
    talk = Dialogue(config=RaftConfig(uncommitted_bytes_max=100, entry_bytes_max=50))
    talk.become_ready_leader()
    assert talk.propose(b"x" * 40) == (2, talk.status.term)
    assert isinstance(talk.propose(b"y" * 40), Busy)
    assert isinstance(talk.propose(b"z" * 51), NotAllowed)
    talk.wrote()
    talk.hear(2, Appended(2))
    assert talk.propose(b"y" * 40) == (3, talk.status.term)


def test_only_a_leader_takes_proposals_and_the_others_name_it() -> None:
    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1)
    refusal = talk.propose(b"x")
    assert isinstance(refusal, NotLeader) and refusal.leader == name(2)


def test_a_leader_without_followers_and_writes_wakes_nobody() -> None:
    talk = Dialogue((1,))
    talk.pass_time(0)
    talk.wrote()
    assert talk.raft.next_deadline() == float("inf")
    talk.says_nothing_of(PreVoteRequest)
