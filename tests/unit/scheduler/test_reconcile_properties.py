"""Something bad never happens: random lives of random clusters, with the rules checked at every entry of every plan.

A life is drawn from a seeded generator (Hypothesis reports the seed of one that fails). Its leader looks at random
moments, so that it finds many changes at once; at the end nothing happens any more, and it has to come to rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.ledger_entries import Assign, RemoveApp, RemoveMember, ScaleApp
from consensus.records import Assignment, MemberStatus
from gossip.members import MemberState
from gossip.record import ReplicaHealth
from mesh.names import NodeId
from scheduler.manifest import Manifest, Resources, Rollout, Spread, decode_manifest
from scheduler.model import EXCLUSIVE_WAIT_S, Plan
from scheduler.rollout import wanted
from tests.unit.scheduler.cluster import GIB, Cluster, Machine, assigns, member, unassigns

APPS = ("a", "b")


def random_manifest(rng: Random, name: str) -> Manifest:
    spread = rng.choice(list(Spread))
    if rng.random() < 0.4:
        return Manifest(name, "run", exclusive=True, rollout=Rollout(1, 0), spread=spread)
    surge, unavailable = rng.choice([(1, 0), (0, 1), (1, 1), (2, 0), (3, 2)])
    return Manifest(
        name,
        "run",
        replicas=rng.randint(0, 5),
        rollout=Rollout(unavailable, surge),
        spread=spread,
        resources=Resources(rng.choice([0.1, 1.0]), rng.choice([1, 2]) * GIB),
    )


def random_cluster(rng: Random) -> Cluster:
    cluster = Cluster()
    for number in range(1, rng.randint(2, 7)):
        machine = Machine(memory_bytes=rng.choice([1, 4, 16]) * GIB, takes_apps=rng.random() < 0.9)
        cluster.join(member(number, zone=rng.choice(["", "a", "b", "c"]), trusted=rng.random() < 0.9), machine)
    return cluster


class Life:
    """One cluster, what happens to it, and what may never be seen."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.cluster = random_cluster(rng)
        self.may_run_until: dict[str, float] = {}  # app → since when its last ended assignment's clock runs

    def live(self, steps: int) -> None:
        happenings: list[tuple[Callable[[], None], int]] = [
            (self.deploy, 3),
            (self.scale, 2),
            (self.remove_app, 1),
            (self.change_node, 6),
            (self.fail_replica, 3),
            (self.cluster.new_leader, 1),
            (self.pass_time, 12),
        ]
        for _ in range(steps):
            happen = self.rng.choices([h for h, _ in happenings], [weight for _, weight in happenings])[0]
            happen()
        self.cluster.restarts.clear()
        self.cluster.settle(rounds=400, step_s=5.0)

    # --- what happens -------------------------------------------------------------------------------------------

    def deploy(self) -> None:
        name = self.rng.choice(APPS)
        if name not in self.cluster.facts.apps and self.cluster.of(name):
            return  # the ledger refuses it while the old ones are being taken away
        number = self.cluster.deploy(random_manifest(self.rng, name))
        if self.rng.random() < 0.3:
            self.cluster.broken.add((name, number))

    def scale(self) -> None:
        self.cluster.say(ScaleApp(self.rng.choice(APPS), self.rng.randint(0, 6)))

    def remove_app(self) -> None:
        self.cluster.say(RemoveApp(self.rng.choice(APPS)))

    def change_node(self) -> None:
        cluster, rng = self.cluster, self.rng
        used = sorted({assignment.node for assignment in cluster.facts.assignments.values()})
        node = rng.choice(used if used and rng.random() < 0.7 else sorted(cluster.machines))
        if cluster.facts.members[node].status is MemberStatus.REMOVED:
            return
        match rng.choice(["down", "out", "out", "back", "back", "back", "drain", "undrain", "full", "remove"]):
            case "down":
                cluster.down(node)
            case "out":
                self._ends(node) if node not in cluster.facts.outs else None
                cluster.out(node)
            case "back":
                cluster.back(node)
            case "drain":
                cluster.drain(node)
            case "undrain":
                cluster.drain(node, False)
            case "full":
                cluster.machines[node].takes_apps = not cluster.machines[node].takes_apps
            case "remove" if rng.random() < 0.3:
                self._ends(node)
                if cluster.say(RemoveMember(node, "")):
                    cluster.machines[node].state = MemberState.DOWN

    def fail_replica(self) -> None:
        replicas = sorted(self.cluster.facts.assignments)
        if replicas:
            replica = self.rng.choice(replicas)
            self.cluster.health[replica] = self.rng.choice(list(ReplicaHealth))
            self.cluster.restarts[replica] = self.rng.randint(0, 8)

    def pass_time(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.look()
            if self.rng.random() < 0.8:
                self.cluster.become_healthy()
            if self.rng.random() < 0.1:
                self.cluster.new_leader()
            self.cluster.now += self.rng.choice([0.5, 1.0, 1.0, 5.0, 13.0, 14.9, 15.0, 70.0])
        self.look()

    # --- what may never be seen ---------------------------------------------------------------------------------

    def look(self) -> None:
        cluster = self.cluster
        healthy_before = {name: len(cluster.healthy(name)) for name in cluster.facts.apps}
        plan = cluster.plan()
        self._down_is_not_out(plan)
        for entry in plan.entries:
            taken = cluster.facts.assignments.get(getattr(entry, "replica_id", ""))
            assert cluster.say(entry), f"the ledger refused {entry}"
            if taken is not None and not self._is_gone(taken.node):
                self.may_run_until[taken.app] = cluster.now
        for entry in assigns(plan):
            self._exclusive_runs_once(entry)
            self._within_surge(entry.app)
            self._within_memory(entry.node)
        for name in {self._app_of(entry.replica_id) for entry in unassigns(plan)} & set(cluster.facts.apps):
            self._above_floor(name, healthy_before[name])

    def _down_is_not_out(self, plan: Plan) -> None:
        for entry in unassigns(plan):
            assignment = self.cluster.facts.assignments[entry.replica_id]
            assert self._is_gone(assignment.node) or not entry.reason.startswith("its node"), entry

    def _is_gone(self, node: NodeId) -> bool:
        return self.cluster.view().is_gone(node)

    def _app_of(self, replica_id: str) -> str:
        return replica_id.rpartition("-")[0]

    def _ends(self, node: NodeId) -> None:
        """From now on what runs on this node may be one that the ledger no longer counts."""
        for assignment in self.cluster.on(node):
            self.may_run_until[assignment.app] = self.cluster.now

    def _live(self, name: str) -> list[Assignment]:
        return [assignment for assignment in self.cluster.of(name) if not self._is_gone(assignment.node)]

    def _exclusive_runs_once(self, entry: Assign) -> None:
        if decode_manifest(self.cluster.facts.releases[entry.app, entry.release].manifest).exclusive:
            assert len(self.cluster.of(entry.app)) == 1, "two assignments of an exclusive app"
            since = self.cluster.now - self.may_run_until.get(entry.app, 0.0)
            assert since >= EXCLUSIVE_WAIT_S, f"started {since} s after another one's end"

    def _within_surge(self, name: str) -> None:
        manifest = self.cluster.manifest(name)
        most = wanted(self.cluster.facts.apps[name], manifest) + manifest.rollout.max_surge
        assert len(self._live(name)) <= most

    def _within_memory(self, node: NodeId) -> None:
        releases = [self.cluster.facts.releases[each.app, each.release] for each in self.cluster.on(node)]
        used = sum(decode_manifest(release.manifest).resources.memory_bytes for release in releases)
        assert used <= self.cluster.machines[node].memory_bytes

    def _above_floor(self, name: str, before: int) -> None:
        manifest = self.cluster.manifest(name)
        floor = max(wanted(self.cluster.facts.apps[name], manifest) - manifest.rollout.max_unavailable, 0)
        assert len(self.cluster.healthy(name)) >= min(before, floor)


@given(st.randoms(use_true_random=True))
@settings(max_examples=150, deadline=None)
def test_in_no_life_of_a_cluster_is_a_rule_broken_and_each_comes_to_rest(rng: Random) -> None:
    Life(rng).live(40)


@given(st.randoms(use_true_random=True))
@settings(max_examples=100, deadline=None)
def test_spread_is_as_even_as_the_able_zones_allow(rng: Random) -> None:
    """Without a bound by capacity no zone that may take one has two replicas less than another."""
    cluster = random_cluster(rng)
    for machine in cluster.machines.values():
        machine.memory_bytes, machine.cpus = 640 * GIB, 64
    replicas = rng.randint(1, 8)
    cluster.deploy(Manifest("a", "run", replicas=replicas))
    cluster.settle(rounds=400)
    able = {
        cluster.facts.members[node].zone or node
        for node, machine in cluster.machines.items()
        if machine.takes_apps and cluster.facts.members[node].trusted
    }
    counted = Counter(cluster.facts.members[each.node].zone or each.node for each in cluster.of("a"))
    assert sum(counted.values()) == (replicas if able else 0)
    assert max((counted[zone] for zone in able), default=0) - min((counted[zone] for zone in able), default=0) <= 1


@given(st.randoms(use_true_random=True))
@settings(max_examples=100, deadline=None)
def test_at_rest_everything_is_placed_or_explained(rng: Random) -> None:
    cluster = random_cluster(rng)
    for name in APPS:
        cluster.deploy(random_manifest(rng, name))
    cluster.settle(rounds=400)
    said = {reason.app for reason in cluster.plan().reasons}
    for name, app in cluster.facts.apps.items():
        assert len(cluster.live(name)) == wanted(app, cluster.manifest(name)) or name in said
