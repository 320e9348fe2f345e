"""Many small worlds with every fault at once: the oracles of `cluster` watch each of them, then all must agree."""

from __future__ import annotations

import random

import pytest

from consensus.raft.config import RaftConfig
from tests.unit.consensus.raft.cluster import Cluster, OracleError, node_name, through_the_wire

SEEDS = 200
STEPS = 60
FAULTS = (
    *("propose", "propose", "read", "crash", "start", "cut", "heal", "stall"),
    *("link", "transfer", "change", "isolate leader", "crash all"),
)


def run_seed(seed: int, *, churn: bool = True) -> Cluster:
    """Safety under faults, then liveness when they have stopped."""
    rng = random.Random(seed)
    size = rng.choice([3, 3, 3, 5])
    cluster = Cluster(
        seed,
        size,
        config=RaftConfig(
            batch_entries_max=rng.choice([1, 4, 64]),
            inflight_messages_max=rng.choice([1, 3, 256]),
            log_keep_entries=rng.choice([0, 3, 10_000]),
            snapshots_at_once=rng.choice([1, 2]),
        ),
        loss=rng.choice([0.0, 0.05, 0.2]),
        duplicates=rng.choice([0.0, 0.2]),
        delay_s=rng.choice([(0.0005, 0.002), (0.001, 0.03), (0.005, 0.12)]),
        write_s=rng.choice([(0.0005, 0.002), (0.001, 0.02), (0.01, 0.1)]),
        snapshot_every=rng.choice([0, 7, 20]),
    )
    if seed % 10 == 0:
        cluster.wiretap = through_the_wire
    for step in range(STEPS):
        cluster.run_for(rng.uniform(0.01, 0.3))
        disturb(cluster, rng, step, churn=churn)
        if step % 10 == 9:
            cluster.check_logs()
    settle(cluster)
    return cluster


def disturb(cluster: Cluster, rng: random.Random, step: int, *, churn: bool) -> None:
    numbers = sorted(int(node_id[1:]) for node_id in cluster.nodes)
    number = rng.choice(numbers)
    node = cluster.node(number)
    match rng.choice(FAULTS):
        case "propose":
            for at in range(rng.choice([1, 5, 100])):
                cluster.propose(f"{step}.{at}", rng.choice([None, node]))
        case "read":
            cluster.read(node)
        case "crash":
            node.crash()
            if rng.random() < 0.5:
                cluster.at(cluster.now + 0.01, lambda: None if node.is_up else node.start())
        case "start":
            for other in cluster.nodes.values():
                if not other.is_up:
                    other.start()
        case "cut":
            cluster.cut(number, rng.choice(numbers), both=rng.random() < 0.6)
        case "heal":
            cluster.cuts.clear()
            cluster.stalled.clear()
        case "stall":
            cluster.stalled.add(node.node_id)
        case "link":
            other = node_name(rng.choice(numbers))
            cluster.touch(node, lambda raft: raft.peer_link_closed(cluster.now, other))
        case "isolate leader":
            leader = cluster.leader()
            if leader is not None:
                cluster.isolate(int(leader.node_id[1:]))
                for at in range(rng.choice([1, 20])):
                    cluster.propose(f"{step}.{at}.alone", leader)
        case "crash all" if rng.random() < 0.3:
            for other in cluster.nodes.values():
                other.crash()
                other.start()
        case "transfer":
            leader = cluster.leader()
            if leader is not None:
                cluster.touch(leader, lambda raft: raft.transfer(cluster.now, node.node_id))
        case "change" if churn:
            change(cluster, rng, numbers)


def change(cluster: Cluster, rng: random.Random, numbers: list[int]) -> None:
    """Some change of membership, sensible or not; the leader takes what it may."""
    leader = cluster.leader()
    if leader is None or leader.raft is None:
        return
    current = leader.raft.status().configuration
    voters = {int(node_id[1:]) for node_id in current.voters}
    learners = {int(node_id[1:]) for node_id in current.learners}
    if rng.random() < 0.4 and len(numbers) < 7:
        number = max(numbers) + 1
        cluster.add(number)
        learners.add(number)
    elif learners and rng.random() < 0.6:
        number = rng.choice(sorted(learners))
        learners.discard(number)
        voters.add(number)
        if rng.random() < 0.5:
            voters.discard(rng.choice(sorted(voters)))
    elif voters:
        number = rng.choice(sorted(voters))
        voters.discard(number)
        if rng.random() < 0.5:
            learners.add(number)
    cluster.change(voters, learners)


def settle(cluster: Cluster) -> None:
    """The faults stop: soon there is a leader, it commits, all its members have everything, the counters rest."""
    cluster.heal()
    for node in cluster.nodes.values():
        if not node.is_up:
            node.start()
    cluster.delay_s = (0.0005, 0.002)
    cluster.write_s = (0.0005, 0.002)
    leader = cluster.elect()
    cluster.run_for(5)
    leader = cluster.elect()
    sent = cluster.propose("last", leader)
    if sent is None:
        raise OracleError("a ready leader at rest took no proposal")
    assert leader.raft is not None
    members = leader.raft.status().configuration.everyone()

    def arrived() -> bool:
        return all(cluster.nodes[node_id].applied[-1:] == leader.applied[-1:] for node_id in members)

    if not cluster.run_until(lambda: cluster.acknowledged >= sent[0] and arrived(), limit_s=10):
        raise OracleError("not all members have everything ten seconds after the faults stopped")
    cluster.run_for(2)
    cluster.check_logs()
    cluster.check_rest()


@pytest.mark.parametrize("block", range(10))
def test_nothing_promised_is_broken_and_all_agree_when_the_faults_stop(block: int) -> None:
    for seed in range(block * SEEDS // 10, (block + 1) * SEEDS // 10):
        try:
            run_seed(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
