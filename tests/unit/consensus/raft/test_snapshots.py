"""Snapshots on their way, as dialogues, and leadership handed over."""

from __future__ import annotations

from consensus.raft.config import RaftConfig
from consensus.raft.messages import (
    RAFT,
    Append,
    Appended,
    AppendRefused,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    LogEntry,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReply,
    TimeoutNow,
    configuration_of,
)
from consensus.raft.outputs import (
    Busy,
    ConfigurationChanged,
    InstallSnapshot,
    NeedSnapshot,
    NotAllowed,
    ReceivedChunk,
    TransferEnded,
)
from tests.unit.consensus.raft.cluster import Cluster, status
from tests.unit.consensus.raft.dialogue import Dialogue, entry, mark, name, names

THREE = configuration_of(names(1, 2, 3))
META = SnapshotMeta(5, 2, THREE)


def installs(talk: Dialogue) -> list[InstallSnapshot]:
    return [output.install for output in talk.outputs if output.install is not None]


def chunks(talk: Dialogue) -> list[ReceivedChunk]:
    return [chunk for output in talk.outputs for chunk in output.chunks]


def needs(talk: Dialogue) -> list[NeedSnapshot]:
    found = [need for output in talk.outputs for need in output.snapshot_needed]
    talk.outputs.clear()
    return found


# --- the follower ---------------------------------------------------------------------------------------------


def test_a_snapshot_comes_in_chunks_and_is_acknowledged_when_installed_and_durable() -> None:
    """Pitfall 22: installed before the log is cut, and both before a word is said."""
    talk = Dialogue(log=[1, 1])
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=False), term=2)
    talk.says(2, SnapshotReply(5, 3))
    talk.hear(2, SnapshotChunk(META, 3, b"de", done=True))
    assert [chunk.payload for chunk in chunks(talk)] == [b"abc", b"de"]
    assert installs(talk) == [InstallSnapshot(META)]
    talk.wrote()
    talk.says_nothing_of(Appended)
    talk.raft.snapshot_installed(talk.now, META)
    talk.take()
    talk.says_nothing_of(Appended)
    assert talk.writing is not None and talk.writing.reset_to == META
    talk.wrote()
    talk.says(2, Appended(5))
    assert (talk.status.first_index, talk.status.commit, talk.status.applied) == (6, 5, 5)


def test_a_broken_off_snapshot_goes_on_where_it_was() -> None:
    talk = Dialogue()
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=False), term=2)
    talk.said.clear()
    for offset, payload in [(9, b"late"), (0, b"abc")]:
        talk.hear(2, SnapshotChunk(META, offset, payload, done=False))
        talk.says(2, SnapshotReply(5, 3))
    assert len(chunks(talk)) == 1


def test_another_senders_chunks_begin_anew() -> None:
    """Equal snapshots of two nodes need not have equal bytes."""
    talk = Dialogue()
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=False), term=2)
    talk.hear(3, SnapshotChunk(META, 3, b"de", done=True), term=3)
    assert SnapshotReply(5, 0) in talk.said_to(3)
    assert installs(talk) == []
    talk.hear(3, SnapshotChunk(META, 0, b"ABC", done=False))
    assert chunks(talk)[-1].offset == 0


def test_a_snapshot_of_what_is_committed_here_is_ignored() -> None:
    """Pitfall 22."""
    talk = Dialogue(log=[1, 1, 1, 2, 2, 2], applied=6)
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=True), term=2)
    talk.wrote()
    talk.says(2, Appended(6))
    assert installs(talk) == []


def test_a_snapshot_that_the_log_contains_only_raises_the_commit_index() -> None:
    talk = Dialogue(log=[1, 1, 1, 2, 2, 2])
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=True), term=2)
    talk.wrote()
    talk.says(2, Appended(5))
    assert talk.status.last_index == 6 and [one.index for one in talk.committed] == [1, 2, 3, 4, 5]


def test_nothing_is_applied_while_a_snapshot_is_pending() -> None:
    """Pitfall 22 (etcd-io/raft 8349efa)."""
    talk = Dialogue(log=[1, 1])
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=True), term=2)
    talk.hear(2, Heartbeat(2, 0))
    talk.hear(2, Append(2, 1, 2, ()))
    assert talk.committed == []
    assert HeartbeatReply(0) in talk.said_to(2)


def test_a_damaged_snapshot_leaves_the_log_as_it_was() -> None:
    """Pitfall 22 (NATS dca7a87)."""
    talk = Dialogue(log=[1, 1])
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=True), term=2)
    talk.raft.snapshot_failed(talk.now, META)
    talk.take()
    assert SnapshotReply(5, 0) in talk.said_to(2)
    assert talk.status.last_index == 2
    talk.outputs.clear()
    talk.hear(2, SnapshotChunk(META, 0, b"abc", done=True))
    assert installs(talk) == [InstallSnapshot(META)]


def test_a_snapshot_brings_its_configuration() -> None:
    """Pitfall 16."""
    grown = configuration_of(names(1, 2, 3, 4))
    talk = Dialogue(())
    meta = SnapshotMeta(5, 2, grown)
    talk.hear(2, SnapshotChunk(meta, 0, b"abc", done=True), term=2)
    talk.raft.snapshot_installed(talk.now, meta)
    talk.take()
    assert talk.status.configuration == grown
    assert ConfigurationChanged(5, grown) in talk.events


def test_a_recovered_snapshot_and_the_configuration_after_it_are_both_known() -> None:
    grown = configuration_of(names(1, 2, 3), names(4))
    later = LogEntry(6, 2, EntryKind.CONFIG, RAFT.encode(grown))
    talk = Dialogue(snapshot=META, entries=[entry(4, 2), entry(5, 2), later], applied=5, term=2)
    assert talk.status.configuration == grown
    assert talk.raft.snapshot_meta(5).configuration == THREE


# --- the leader -----------------------------------------------------------------------------------------------


def leader_with_a_compacted_log(config: RaftConfig | None = None) -> Dialogue:
    """n1 leads; what n3 needs is gone from its log. n2 has everything."""
    talk = Dialogue((1, 2, 3), config=config or RaftConfig(log_keep_entries=0))
    talk.become_ready_leader(2)
    talk.propose(b"a", b"b")
    talk.wrote()
    talk.hear(2, Appended(3))
    talk.apply()
    talk.raft.snapshot_taken(talk.now, talk.raft.snapshot_meta(3))
    talk.take()
    assert talk.status.first_index == 4
    talk.hear(3, AppendRefused(0, 0, 0))
    talk.hear(3, HeartbeatReply(0))
    talk.said.clear()
    return talk


def give(talk: Dialogue, offset: int, payload: bytes, *, done: bool, to: int = 3) -> bool:
    meta = talk.raft.snapshot_meta(3)
    sent = talk.raft.snapshot_chunk(talk.now, name(to), meta, offset, payload, done=done)
    talk.take()
    return sent


def test_a_follower_whose_entries_are_gone_is_given_a_snapshot_and_then_the_log() -> None:
    talk = leader_with_a_compacted_log()
    assert needs(talk) == [NeedSnapshot(name(3), 0, 0)]
    assert give(talk, 0, b"abc", done=False)
    talk.hear(3, SnapshotReply(3, 3))
    assert needs(talk) == [NeedSnapshot(name(3), 3, 3)]
    assert give(talk, 3, b"de", done=True)
    talk.hear(3, SnapshotReply(3, 5))
    assert needs(talk) == []
    talk.hear(3, Appended(3))
    talk.said.clear()
    talk.propose(b"c")
    assert talk.said_to(3, Append)


def test_heartbeats_go_on_while_a_snapshot_is_sent() -> None:
    """Pitfall 24."""
    talk = leader_with_a_compacted_log()
    talk.pass_time(0.2)
    assert talk.said_to(3, Heartbeat)
    assert not talk.said_to(3, Append)


def test_any_snapshot_that_reconnects_a_follower_is_good() -> None:
    """Pitfall 24: it may have come from another leader meanwhile."""
    talk = leader_with_a_compacted_log()
    talk.hear(3, Appended(3))
    talk.said.clear()
    talk.propose(b"c")
    assert talk.said_to(3, Append)


def test_nobody_who_is_away_is_sent_a_snapshot_or_keeps_the_place_of_another() -> None:
    """Pitfall 24."""
    talk = Dialogue((1, 2, 3, 4, 5), config=RaftConfig(log_keep_entries=0, snapshots_at_once=1))
    talk.become_ready_leader(2, 3)
    talk.raft.snapshot_taken(talk.now, talk.raft.snapshot_meta(1))
    talk.take()
    for number in (4, 5):
        talk.hear(number, AppendRefused(0, 0, 0))
        talk.hear(number, HeartbeatReply(0))
    assert [need.to for need in needs(talk)] == [name(4)]
    for _ in range(8):
        talk.pass_time(0.15)
        for number in (2, 3, 5):
            talk.hear(number, HeartbeatReply(0))
    assert [need.to for need in needs(talk)][-1:] == [name(5)]


def test_an_unanswered_chunk_is_asked_for_again() -> None:
    talk = leader_with_a_compacted_log()
    assert len(needs(talk)) == 1
    for _ in range(15):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
        talk.hear(3, HeartbeatReply(0))
    assert needs(talk) == [NeedSnapshot(name(3), 0, 0)]


def test_a_chunk_that_nobody_waits_for_is_not_sent() -> None:
    talk = leader_with_a_compacted_log()
    assert give(talk, 0, b"abc", done=False)
    assert not give(talk, 0, b"abc", done=False)
    assert not give(talk, 0, b"abc", done=False, to=2)
    assert not give(talk, 0, b"abc", done=False, to=7)


def test_appends_go_on_while_a_snapshot_is_taken() -> None:
    """Pitfall 22: the snapshot is of index 1, and the log went on to 2."""
    talk = Dialogue(config=RaftConfig(log_keep_entries=0))
    talk.become_ready_leader()
    meta = talk.raft.snapshot_meta(1)
    talk.propose(b"x")
    talk.wrote()
    talk.hear(2, Appended(2))
    talk.apply()
    talk.raft.snapshot_taken(talk.now, meta)
    output = talk.take()
    assert output.compact_to == 1
    assert (talk.status.first_index, talk.status.last_index) == (2, 2)


# --- handing over ---------------------------------------------------------------------------------------------


def test_the_target_is_told_when_it_has_everything_and_proposals_wait() -> None:
    """Pitfall 8."""
    talk = Dialogue()
    talk.become_ready_leader()
    talk.propose(b"x")
    assert talk.raft.transfer(talk.now, name(2)) is None
    assert isinstance(talk.propose(b"y"), Busy)
    talk.take()
    talk.says_nothing_of(TimeoutNow)
    talk.wrote()
    talk.hear(2, Appended(2))
    assert TimeoutNow() in talk.said_to(2)
    talk.hear(2, Heartbeat(0, 0), term=talk.status.term + 1)
    assert TransferEnded(name(2), done=True) in talk.events


def test_a_transfer_that_does_not_come_about_ends_after_an_election_timeout() -> None:
    """Pitfall 8."""
    talk = Dialogue()
    talk.become_ready_leader()
    assert talk.raft.transfer(talk.now, name(2)) is None
    for _ in range(7):
        talk.pass_time(0.15)
        talk.hear(3, HeartbeatReply(0))
    assert TransferEnded(name(2), done=False) in talk.events
    assert isinstance(talk.propose(b"y"), tuple)


def test_leadership_is_not_handed_to_who_cannot_lead() -> None:
    talk = Dialogue(learners=(4,))
    talk.become_ready_leader()
    for number in (1, 4, 9):
        assert isinstance(talk.raft.transfer(talk.now, name(number)), NotAllowed)
    for _ in range(8):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
    assert isinstance(talk.raft.transfer(talk.now, name(3)), Busy)


def test_leadership_moves_within_a_few_round_trips() -> None:
    cluster = Cluster(3, 3)
    leader = cluster.elect()
    target = next(node for node in cluster.nodes.values() if node is not leader)
    began = cluster.now
    cluster.touch(leader, lambda raft: raft.transfer(cluster.now, target.node_id))
    assert cluster.run_until(lambda: target.leads() and status(target).ready, limit_s=1)
    assert cluster.now - began < 0.05


# --- stores and starts (rule T3) ------------------------------------------------------------------------------


def test_a_store_that_the_ledger_does_not_know_is_not_counted() -> None:
    talk = Dialogue()
    talk.become_leader()
    talk.raft.set_known_marks({name(2): mark(2, boot=0)})
    talk.hear(2, Appended(1), sender=mark(2, store=9))
    assert talk.status.commit == 0
    talk.hear(2, Appended(1))
    assert talk.status.commit == 1


def test_a_store_that_was_readmitted_after_the_ledgers_word_is_counted() -> None:
    """All restart from an old ledger snapshot; the entry that made n2 a voter again is not known to be committed."""
    out = configuration_of(names(1, 3), names(2))
    again = configuration_of(names(1, 2, 3))
    entries = [
        LogEntry(1, 1, EntryKind.CONFIG, RAFT.encode(out)),
        LogEntry(2, 1, EntryKind.CONFIG, RAFT.encode(again)),
    ]
    talk = Dialogue(entries=entries, term=1)
    talk.raft.set_known_marks({name(2): mark(2, store=8, boot=0)})
    talk.become_leader()
    talk.hear(2, Appended(3))
    assert talk.status.commit == 3


def test_an_older_start_and_a_twin_are_not_heard() -> None:
    """Fault D6."""
    from consensus.raft.messages import VoteReply, VoteRequest
    from consensus.raft.outputs import MessageFenced

    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1, sender=mark(2, boot=5))
    for other in (mark(2, boot=4), mark(2, boot=5, nonce=9), mark(1, boot=7)):
        talk.hear(2, VoteRequest(9, 9, transfer=True), term=8, sender=other)
    talk.wrote()
    talk.says_nothing_of(VoteReply)
    assert talk.status.term == 1
    assert len([event for event in talk.events if isinstance(event, MessageFenced)]) == 3
    talk.hear(2, VoteRequest(9, 9, transfer=True), term=8, sender=mark(2, boot=6))
    assert talk.status.term == 8


def test_of_two_copies_the_one_that_the_ledger_registered_is_heard_whoever_spoke_first() -> None:
    """Fault D6: both count the same start; which of them a replica heard first is chance."""
    from consensus.raft.messages import VoteReply, VoteRequest

    talk = Dialogue()
    talk.hear(2, Heartbeat(0, 0), term=1, sender=mark(2, boot=5, nonce=9))
    talk.raft.set_known_marks({name(2): mark(2, boot=5)})
    for other in (mark(2, boot=5, nonce=9), mark(2, boot=4)):
        talk.hear(2, VoteRequest(9, 9, transfer=True), term=8, sender=other)
    talk.wrote()
    talk.says_nothing_of(VoteReply)
    assert talk.status.term == 1
    talk.hear(2, VoteRequest(9, 9, transfer=True), term=8, sender=mark(2, boot=5))
    assert talk.status.term == 8


def test_a_transfer_without_progress_is_begun_anew_by_a_probe() -> None:
    """Pitfall 24: the stall timeout."""
    talk = leader_with_a_compacted_log(RaftConfig(log_keep_entries=0, snapshot_stall_s=3))
    give(talk, 0, b"abc", done=False)
    talk.hear(3, SnapshotReply(3, 3))
    give(talk, 3, b"de", done=False)
    for _ in range(25):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
        talk.hear(3, HeartbeatReply(0))
    assert needs(talk)[-1] == NeedSnapshot(name(3), 0, 0)


def test_an_installation_whose_end_was_not_heard_of_is_asked_about() -> None:
    """The acknowledgement was lost: the last chunk again, and the follower says that it has all."""
    talk = leader_with_a_compacted_log()
    give(talk, 0, b"abcde", done=True)
    talk.hear(3, SnapshotReply(3, 5))
    needs(talk)
    for _ in range(15):
        talk.pass_time(0.15)
        talk.hear(2, HeartbeatReply(0))
        talk.hear(3, HeartbeatReply(0))
    assert needs(talk) == [NeedSnapshot(name(3), 3, 0)]


def test_a_newer_snapshot_begins_anew() -> None:
    talk = leader_with_a_compacted_log()
    give(talk, 0, b"abc", done=False)
    talk.hear(3, SnapshotReply(3, 3))
    newer = SnapshotMeta(4, 2, THREE)
    assert not talk.raft.snapshot_chunk(talk.now, name(3), newer, 3, b"x", done=False)
    assert talk.raft.snapshot_chunk(talk.now, name(3), newer, 0, b"x", done=False)
    talk.take()
    assert talk.said_to(3, SnapshotChunk)[-1] == SnapshotChunk(newer, 0, b"x", done=False)
