"""A group's replica and observer: agreeing, copying, restarting, changing between the two."""

from __future__ import annotations

import random
from dataclasses import replace

from consensus.beginnings import recovering_write
from consensus.group_effects import Fenced, GroupConfig, Mode, PeerFact
from consensus.raft.config import RaftConfig
from consensus.raft.messages import Envelope, PreVoteReply, PreVoteRequest, ReplicaMark, VoteReply, VoteRequest
from consensus.raft.outputs import ReadReady
from mesh.names import NodeId
from tests.unit.consensus.cluster import Cluster, Node, founded


def known_store(node_id: NodeId, store_id: bytes) -> PeerFact:
    """The ledger's word on a node's memory, when no start of it is registered."""
    return PeerFact(ReplicaMark(node_id, store_id, 0, b""), may_vote=True)


SHORT = GroupConfig(raft=RaftConfig(log_keep_entries=5), snapshot_entries=20)


def test_a_founder_alone_agrees_with_itself() -> None:
    cluster = founded("a")
    assert cluster.propose(b"one") == b"done:one"
    assert cluster["a"].tape == [b"one"]


def test_three_replicas_apply_the_same_and_go_on_without_their_leader() -> None:
    cluster = founded("abc")
    cluster.propose(b"one")
    first = cluster.leader()
    first.crash()
    assert cluster.propose(b"two") == b"done:two"
    first.start()
    cluster.run(3)
    assert [node.tape for node in cluster.nodes.values()] == [[b"one", b"two"]] * 3


def test_a_restarted_group_knows_what_was_committed_before_there_is_a_leader() -> None:
    cluster = founded("abc")
    cluster.propose(b"one")
    cluster.run(2)
    for node in cluster.nodes.values():
        node.crash()
    cluster["a"].start()
    assert cluster["a"].tape == [b"one"]


def test_an_observer_copies_from_anyone_and_knows_how_old_its_copy_is() -> None:
    cluster = founded("abc", "o")
    cluster.propose(b"one")
    cluster.run(1)
    observer = cluster["o"].group
    assert observer is not None
    assert observer.status().mode is Mode.OBSERVER
    assert cluster["o"].tape == [b"one"]
    assert observer.age(cluster.now) < 8
    cluster.cut = {"o"}
    cluster.run(60)
    assert observer.age(cluster.now) > 50


def test_an_observer_far_behind_takes_a_snapshot() -> None:
    cluster = founded("abc", config=SHORT)
    for number in range(60):
        cluster.propose(b"%d" % number)
    cluster.nodes["o"] = Node("o", cluster)
    cluster["o"].start()
    cluster.run(10)
    assert cluster["o"].tape == cluster["a"].tape
    assert cluster["o"].group is not None
    assert cluster["o"].group.status().snapshot_index > 0
    cluster["o"].crash()
    cluster["o"].start()
    assert cluster["o"].tape == cluster["a"].tape


def test_an_observer_becomes_a_voter_with_what_it_copied_and_an_observer_again() -> None:
    cluster = founded("ab", "o")
    cluster.propose(b"one")
    cluster.run(2)
    cluster.set_members("ab", "o")
    cluster.set_members("abo")
    assert cluster["o"].group is not None
    assert cluster["o"].group.status().mode is Mode.REPLICA
    cluster.propose(b"two")
    leader = cluster.leader().name
    others = "".join(name for name in "ab" if name != leader)
    if leader == "o":
        cluster.set_members("o" + others[0])
        return
    cluster.set_members("ab")
    cluster.propose(b"three")
    cluster.run(10)
    assert cluster["o"].group.status().mode is Mode.OBSERVER
    assert cluster["o"].tape == [b"one", b"two", b"three"]


def test_a_voter_that_was_removed_while_it_was_away_finds_that_out() -> None:
    cluster = founded("abc")
    away = next(name for name in "abc" if name != cluster.leader().name)
    cluster.cut = {away}
    stay = "abc".replace(away, "")
    cluster.set_members(stay)
    cluster.propose(b"without it")
    cluster.cut = set()
    cluster.run(20)
    group = cluster[away].group
    assert group is not None
    assert group.status().mode is Mode.OBSERVER
    assert cluster[away].tape == [b"without it"]


def test_a_voter_that_was_removed_finds_that_out_even_if_only_a_snapshot_can_tell() -> None:
    cluster = founded("abc", config=SHORT)
    away = next(name for name in "abc" if name != cluster.leader().name)
    cluster.cut = {away}
    cluster.set_members("abc".replace(away, ""))
    said = [b"%d" % number for number in range(100)]
    for payload in said:
        cluster.propose(payload)
    cluster.cut = set()
    cluster.run(20)
    group = cluster[away].group
    assert group is not None
    assert group.status().mode is Mode.OBSERVER
    assert cluster[away].tape == said


def test_snapshots_are_taken_the_log_is_cut_and_a_restart_finds_everything() -> None:
    cluster = founded("abc", config=SHORT)
    said = [b"%d" % number for number in range(100)]
    for payload in said:
        cluster.propose(payload)
    cluster.run(2)
    for node in cluster.nodes.values():
        assert node.group is not None
        assert node.group.status().snapshot_index > 60
        node.crash()
        node.start()
        assert node.tape == said
    assert cluster.propose(b"more") == b"done:more"


def test_a_replica_far_behind_is_sent_a_snapshot_by_the_leader() -> None:
    cluster = founded("abc", config=SHORT)
    away = next(name for name in "abc" if name != cluster.leader().name)
    cluster[away].crash()
    for number in range(60):
        cluster.propose(b"%d" % number)
    cluster[away].start()
    cluster.run(10)
    assert cluster[away].tape == cluster[cluster.leader().name].tape
    cluster[away].crash()
    cluster[away].start()
    cluster.run(10)
    assert len(cluster[away].tape) == 60


def test_reads_are_answered_by_replicas_once_the_leader_proved_that_it_leads() -> None:
    cluster = founded("abc")
    cluster.propose(b"one")
    follower = next(node for node in cluster.nodes.values() if node is not cluster.leader())
    assert follower.group is not None
    follower.group.read(cluster.now, 7)
    follower.perform()
    cluster.run(2)
    (read,) = follower.reads
    assert isinstance(read, ReadReady)
    assert follower.tape == [b"one"]


def test_a_leader_cut_off_settles_nothing_and_the_majority_goes_on() -> None:
    cluster = founded("abc")
    old = cluster.leader()
    cluster.cut = {old.name}
    assert old.group is not None
    assert old.group.propose(cluster.now, 5, b"lost") is None
    old.perform()
    cluster.run(5)
    assert [(settled.token, settled.result) for settled in old.settled if settled.token == 5] == [(5, None)]
    cluster.propose(b"kept")
    cluster.cut = set()
    cluster.run(5)
    assert [node.tape for node in cluster.nodes.values()] == [[b"kept"]] * 3


def test_a_replica_that_the_leader_alone_cannot_reach_is_no_minority() -> None:
    cluster = founded("abc")
    cluster.propose(b"before")
    leader = cluster.leader()
    far = next(node for node in cluster.nodes.values() if node is not leader)
    assert leader.group is not None
    assert far.group is not None
    term = leader.group.status().term
    cluster.apart = {frozenset((leader.name, far.name))}
    cluster.run(5)
    assert (far.group.leader, far.group.is_hearsay) == (leader.name, True)
    assert leader.group.propose(cluster.now, 7, b"meanwhile") is None
    leader.perform()
    for _ in range(20):
        cluster.run(1)
        assert far.group.age(cluster.now) < 4, "it may run what is exclusive for as long as others hear the leader"
    assert far.tape == [b"before", b"meanwhile"]
    assert leader.group.status().term == term
    cluster.apart = set()
    cluster.run(3)
    assert (far.group.leader, far.group.is_hearsay) == (leader.name, False)


def test_two_of_five_tell_each_other_of_no_leader() -> None:
    cluster = founded("abcde")
    leader = cluster.leader()
    names = [node.name for node in cluster.nodes.values() if node is not leader]
    two, three = names[:2], [leader.name, *names[2:]]
    cluster.apart = {frozenset((one, other)) for one in two for other in three}
    cluster.run(20)
    for name in two:
        group = cluster[name].group
        assert group is not None
        assert group.leader is None
        assert group.age(cluster.now) > 15


def test_a_full_disk_refuses_proposals_and_hands_over() -> None:
    cluster = founded("abc")
    leader = cluster.leader()
    assert leader.group is not None
    leader.group.set_read_only(cluster.now, "the disk is full")
    leader.perform()
    assert cluster.propose(b"elsewhere") == b"done:elsewhere"
    assert cluster.leader() is not leader


def test_a_full_disk_that_is_elected_again_hands_over_again() -> None:
    cluster = founded("abc")
    leader = cluster.leader()
    for other in cluster.nodes.values():
        assert other.group is not None
        other.group.set_read_only(cluster.now, "the disk is full")
        other.perform()
    second = cluster.leader()
    assert second is not leader
    for _ in range(10):  # what a driver does while its disk is full: it says so each second
        assert second.group is not None
        second.group.set_read_only(cluster.now, "the disk is full")
        second.perform()
        cluster.run(1)
    assert cluster.leader() is not second
    third = cluster.leader()
    assert third.group is not None
    third.group.set_read_only(cluster.now, "")
    third.perform()
    assert cluster.propose(b"taken") == b"done:taken"


def test_a_foreign_history_is_told_and_never_mixed_in() -> None:
    one, other = founded("a"), Cluster("x")
    other["x"].start(found=True)
    for _ in range(2):
        other.propose(b"other")
        other["x"].crash()
        other["x"].start()
    other.run(2)
    for number in range(5):
        one.propose(b"%d" % number)
    stranger = Node("o", one)
    one.nodes["o"] = stranger
    stranger.log_disk = other["x"].log_disk.crash(random.Random(1), keep_all=True)
    stranger.start()
    one.run(10)
    assert stranger.tape == [b"other"] * 2
    assert any(isinstance(event, Fenced) for event in stranger.events)


def test_the_best_survivor_goes_on_in_the_next_epoch_and_the_others_follow() -> None:
    cluster = founded("abcde")
    for number in range(10):
        cluster.propose(b"%d" % number)
    cluster.run(2)
    for lost in "abc":
        cluster[lost].crash()
    cluster.run(5)
    survivor = cluster["d"].group
    assert survivor is not None
    assert survivor.recover(cluster.now, 1) is not None
    assert survivor.recover(cluster.now, 2) is None
    cluster["d"].perform()
    cluster.run(20)
    assert survivor.is_leader
    assert cluster.propose(b"after") == b"done:after"
    cluster.run(10)
    follower = cluster["e"].group
    assert follower is not None
    assert (follower.status().epoch, follower.status().mode) == (2, Mode.OBSERVER)
    assert cluster["e"].tape == [*(b"%d" % number for number in range(10)), b"after"]


def test_who_returns_from_a_given_up_epoch_never_agrees_on_anything_again() -> None:
    cluster = founded("abc")
    cluster.propose(b"before")
    cluster.run(2)
    others = [name for name in "abc" if name != "c"]
    cluster.cut = {"c"}
    for name in others:
        cluster[name].crash()
    cluster.cut = set()
    cluster.run(3)
    survivor = cluster["c"].group
    assert survivor is not None
    assert survivor.recover(cluster.now, 2) is None
    cluster["c"].perform()
    assert cluster.propose(b"new") == b"done:new"
    for name in others:
        cluster[name].start()
    for _ in range(3):
        cluster.run(20)
        for name in others:
            if any(isinstance(event, Fenced) for event in cluster[name].events):
                cluster[name].events.clear()
                cluster[name].crash(wipe=True)  # as the daemon does, which moves the old memory aside
                cluster[name].start()
    assert survivor.is_leader
    for name in others:
        group = cluster[name].group
        assert group is not None
        assert cluster[name].tape == [b"before", b"new"]
        assert (group.status().epoch, group.status().mode) == (2, Mode.OBSERVER)


def test_a_survivor_that_once_lost_its_log_can_go_on_alone() -> None:
    cluster = founded("abc")
    cluster.propose(b"before")
    cluster.run(2)
    stores = {node.name: node.store.store_id for node in cluster.nodes.values()}
    cluster.facts = lambda machine: lambda node_id: replace(known_store(node_id, stores[node_id]), may_vote=False)
    cluster["a"].crash()
    cluster["b"].crash()
    cluster["c"].crash()
    cluster["c"].start()
    cluster.run(5)
    survivor = cluster["c"].group
    assert survivor is not None and not survivor.is_leader
    assert survivor.recover(cluster.now, 2) is None
    cluster["c"].perform()
    assert cluster.propose(b"alone") == b"done:alone"
    cluster["c"].crash()
    cluster["c"].start()
    assert cluster.propose(b"again") == b"done:again"


def test_a_survivor_that_hears_a_leader_recovers_nothing() -> None:
    cluster = founded("abc")
    follower = next(node for node in cluster.nodes.values() if node is not cluster.leader())
    assert follower.group is not None
    assert follower.group.recover(cluster.now, 2) is not None
    assert cluster.propose(b"on") == b"done:on"


def test_a_replica_whose_log_is_new_does_not_vote_before_it_is_known() -> None:
    cluster = founded("abc")
    cluster.propose(b"one")
    cluster.run(2)
    stores = {node.name: node.store.store_id for node in cluster.nodes.values()}
    cluster.facts = lambda machine: lambda node_id: known_store(node_id, stores[node_id])
    for node in cluster.nodes.values():
        node.crash(wipe=node.name == "b")
        node.start()
    cluster["c"].crash()
    cluster.run(20)
    assert not any(node.group is not None and node.group.is_leader for node in cluster.nodes.values())
    stores[cluster["b"].name] = cluster["b"].store.store_id
    cluster["c"].start()
    assert cluster.propose(b"two") == b"done:two"
    cluster.run(5)
    assert cluster["b"].tape == [b"one", b"two"]


def test_whoever_lost_its_log_grants_no_vote_even_to_those_who_do_not_know() -> None:
    cluster = founded("abc")
    stores = {node.name: node.store.store_id for node in cluster.nodes.values()}
    cluster.facts = lambda machine: lambda node_id: known_store(node_id, stores[node_id])
    cluster["b"].crash(wipe=True)
    cluster["b"].start()
    lost = cluster["b"].group
    assert lost is not None
    asker = ReplicaMark(cluster["a"].name, stores[cluster["a"].name], 2, b"nonce")
    for body in (PreVoteRequest(99, 99, 99), VoteRequest(99, 99, transfer=False)):
        lost.receive(cluster.now, Envelope(0, 1, 99, asker, body))
        output = lost.take_output()
        if output.write is not None:
            lost.written(cluster.now)
        replies = [sent.envelope.body for sent in (*output.send, *lost.take_output().send)]
        assert not any(reply.granted for reply in replies if isinstance(reply, PreVoteReply | VoteReply))


def test_no_term_of_an_epoch_is_one_of_another() -> None:
    first, second = (recovering_write(NodeId("a"), epoch, 10) for epoch in (2, 3))
    assert first.hard_state is not None
    assert second.hard_state is not None
    assert second.hard_state.term - first.hard_state.term > 100 * 365 * 24 * 3600  # an election a second
    assert first.entries[0].term == first.hard_state.term > 100 * 365 * 24 * 3600
