"""That there is a leader soon, under cuts that leave a way (faults N2, N3, N4), and that it is replaced soon (C1)."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from consensus.raft import quorum
from tests.unit.consensus.raft.cluster import Cluster, node_name, status

ELECTION_TIMEOUTS = 10
"""Within so many of the longest one there is a leader (fault N2)."""


def has_a_centre(cluster: Cluster) -> bool:
    """Whether some node has two-way links to a quorum."""
    ids = list(cluster.nodes)
    configuration = status(cluster.node(1)).configuration
    for one in ids:
        linked = [
            other
            for other in ids
            if other == one or ((one, other) not in cluster.cuts and (other, one) not in cluster.cuts)
        ]
        if quorum.is_quorum(configuration, linked):
            return True
    return False


def works(cluster: Cluster) -> bool:
    """Somewhere there is a leader that commits."""
    leader = cluster.ready_leader()
    if leader is None:
        return False
    before = cluster.acknowledged
    cluster.propose("probe", leader)
    cluster.run_for(0.5)
    return cluster.acknowledged > before


def check_graph(cluster: Cluster) -> None:
    if not has_a_centre(cluster):
        return
    limit = ELECTION_TIMEOUTS * cluster.config.election_max_s
    end = cluster.now + limit
    while cluster.now < end:
        cluster.run_for(0.5)
        if works(cluster):
            return
    raise AssertionError(f"no leader within {limit} s, cut: {sorted(cluster.cuts)}")


def test_a_leader_is_found_under_every_one_way_cut_of_three() -> None:
    """Fault N2: all 64 graphs, each cut into a group that had a leader."""
    pairs = [(one, other) for one in (1, 2, 3) for other in (1, 2, 3) if one != other]
    for mask in range(2 ** len(pairs)):
        cluster = Cluster(mask, 3)
        cluster.elect()
        cluster.cuts = {
            (node_name(one), node_name(other)) for at, (one, other) in enumerate(pairs) if mask >> at & 1
        }
        check_graph(cluster)


def test_a_leader_is_found_under_partial_cuts_of_five() -> None:
    """Fault N3: a sample of the 1,024 graphs; the simulator walks them all."""
    pairs = list(combinations(range(1, 6), 2))
    rng = random.Random(3)
    for seed in range(60):
        cluster = Cluster(seed, 5)
        cluster.elect()
        for one, other in pairs:
            if rng.random() < 0.4:
                cluster.cut(one, other)
        check_graph(cluster)


def test_a_cut_off_follower_that_returns_unseats_nobody() -> None:
    """Fault N4: flapping raises no term."""
    cluster = Cluster(5, 5)
    leader = cluster.elect()
    term = status(leader).term
    follower = next(number for number in range(1, 6) if node_name(number) != leader.node_id)
    for _ in range(10):
        cluster.isolate(follower)
        cluster.run_for(1.5)
        cluster.cuts.clear()
        cluster.run_for(0.5)
    assert cluster.leader() is leader and status(leader).term == term


def test_a_stale_replica_whose_vote_is_needed_gives_it() -> None:
    """Pitfall 5: n1 slept through two terms; then the leader dies for good."""
    for seed in range(20):
        cluster = Cluster(seed, 3)
        leader = cluster.elect()
        stale = next(node for node in cluster.nodes.values() if node is not leader)
        cluster.isolate(int(stale.node_id[1:]))
        for _ in range(2):
            ending = cluster.elect()
            others = [node for node in cluster.nodes.values() if node not in (ending, stale)]
            raft, now, target = ending.raft, cluster.now, others[0].node_id
            assert raft is not None and raft.transfer(now, target) is None
            cluster.drain(ending)
            cluster.run_for(1)
        cluster.elect().crash()
        cluster.cuts.clear()
        cluster.run_for(0.01)
        assert cluster.run_until(cluster.ready_leader, limit_s=5), f"seed {seed}"


def test_a_killed_leader_is_replaced_well_before_a_timeout() -> None:
    """Rule C1: by the links that its kernel closes."""
    waits = []
    for seed in range(40):
        cluster = Cluster(seed, 5)
        leader = cluster.elect()
        cluster.run_for(1)
        leader.crash()
        cluster.close_links(int(leader.node_id[1:]))
        began = cluster.now
        assert cluster.run_until(cluster.ready_leader, limit_s=5)
        waits.append(round(cluster.now - began,3))
    waits.sort()
    assert waits[len(waits) // 2] < 0.15
    assert waits[-1] < 2.0


@pytest.mark.parametrize("size", [3, 5])
def test_a_leader_with_a_silent_disk_is_replaced(size: int) -> None:
    """Fault D8: a zombie leader answers heartbeats for ever."""
    cluster = Cluster(11, size)
    leader = cluster.elect()
    cluster.stalled.add(leader.node_id)
    cluster.propose("stuck", leader)
    assert cluster.run_until(
        lambda: cluster.ready_leader() is not None and cluster.ready_leader() is not leader, limit_s=3
    )
    sent = cluster.propose("goes on", cluster.ready_leader())
    cluster.run_for(1)
    assert sent is not None and cluster.acknowledged >= sent[0]


def test_the_same_seed_gives_the_same_words() -> None:
    def transcript(seed: int) -> list[str]:
        said: list[str] = []
        cluster = Cluster(seed, 3, loss=0.1, duplicates=0.1)
        cluster.wiretap = lambda outgoing: said.append(f"{cluster.now} {outgoing.to} {outgoing.envelope.body}")
        cluster.run_for(2)
        for at in range(20):
            cluster.propose(str(at))
            cluster.run_for(0.05)
        return said

    assert transcript(4) == transcript(4)
    assert transcript(4) != transcript(5)
