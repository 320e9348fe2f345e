"""A cluster small enough to think about: the ledger's own apply functions, nodes that run what they are told, a clock.

Plans are applied by the real `consensus` code; only gossip and the processes are imitated, as records that say what
the nodes run. What is unusual (a node down, a release that never becomes healthy) is told to it by the test.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from consensus.ledger_entries import Assign, ChangeMember, Done, Entry, MarkBack, MarkOut, PutRelease, Unassign
from consensus.ledger_facts import Context, Facts
from consensus.ledger_state import APPLY
from consensus.records import Assignment, BootMark, Member, MemberStatus, Release, ReleaseState
from gossip.members import MemberState
from gossip.record import NodeRecord, ReplicaHealth, ReplicaReport
from mesh.names import NodeId, node_id_of
from scheduler.manifest import Manifest, decode_manifest, encode_manifest
from scheduler.model import ClusterView, NodeFacts, Plan, Sightings
from scheduler.reconcile import reconcile
from scheduler.sightings import observe

GIB = 1024**3
WALL_MS = 1_700_000_000_000


def member(number: int, *, zone: str = "", trusted: bool = True, labels: dict[str, str] | None = None) -> Member:
    key = number.to_bytes(2, "big") * 16
    return Member(
        node_id=node_id_of(key),
        name=f"n{number}",
        public_key=key,
        certificate=b"c",
        trusted=trusted,
        may_invite=trusted,
        may_vote=trusted,
        zone=zone,
        provider="",
        labels=tuple(sorted((labels or {}).items())),
        addresses=(),
        status=MemberStatus.ACTIVE,
        boot=BootMark(bytes(16), 1, bytes(8)),
        joined_ms=WALL_MS,
        seen_alive=True,
        feature_level=1,
        away_until_ms=0,
        relearn=False,
    )


@dataclass
class Machine:
    """One node's own side."""

    state: MemberState = MemberState.ALIVE
    cpus: float = 4.0
    memory_bytes: int = 8 * GIB
    disk_bytes: int = 100 * GIB
    takes_apps: bool = True
    load_percent: int = 0
    bundles: tuple[str, ...] = ()
    told: bool = True  # its record was heard


@dataclass
class Cluster:
    facts: Facts = field(default_factory=Facts)
    machines: dict[NodeId, Machine] = field(default_factory=dict)
    health: dict[str, ReplicaHealth] = field(default_factory=dict)  # by replica id; else STARTING
    restarts: dict[str, int] = field(default_factory=dict)
    broken: set[tuple[str, int]] = field(default_factory=set)  # releases that never become healthy
    index: int = 0
    now: float = 1000.0
    seen: Sightings = field(default_factory=lambda: Sightings(led_since=0.0))

    def join(self, new: Member, machine: Machine | None = None) -> NodeId:
        self.facts.members[new.node_id] = new
        self.machines[new.node_id] = machine or Machine()
        return new.node_id

    def say(self, entry: Entry) -> bool:
        """Apply one entry; False when the ledger refused it."""
        self.index += 1
        result = APPLY[type(entry)](self.facts, entry, Context(self.index, WALL_MS + self.index, NodeId("leader")))
        return isinstance(result, Done)

    def deploy(self, manifest: Manifest) -> int:
        number = max((n for name, n in self.facts.releases if name == manifest.name), default=0) + 1
        release = Release(manifest.name, number, "b" * 64, 1, encode_manifest(manifest), "", 0, ())
        assert self.say(PutRelease(release, manifest.replicas))
        return number

    def down(self, node: NodeId) -> None:
        self.machines[node].state = MemberState.DOWN

    def out(self, node: NodeId) -> None:
        self.down(node)
        assert self.say(MarkOut(node, "down for 3 s"))

    def back(self, node: NodeId) -> None:
        self.machines[node].state = MemberState.ALIVE
        assert self.say(MarkBack(node))

    def drain(self, node: NodeId, draining: bool = True) -> None:
        assert self.say(ChangeMember(node, None, None, draining, None, None, None, None, None))

    def label(self, node: NodeId, labels: dict[str, str]) -> None:
        old = self.facts.members[node]
        self.facts.members[node] = replace(old, labels=tuple(sorted(labels.items())))

    # --- what the leader does ---------------------------------------------------------------------------------

    def view(self) -> ClusterView:
        facts = self.facts
        return ClusterView(
            now=self.now,
            apps=dict(facts.apps),
            releases=dict(facts.releases),
            assignments=dict(facts.assignments),
            outs=dict(facts.outs),
            members=dict(facts.members),
            gossip={node: self.heard(node) for node in facts.members},
            seen=self.seen,
        )

    def heard(self, node: NodeId) -> NodeFacts:
        machine = self.machines[node]
        return NodeFacts(machine.state, self.record(node) if machine.told else None)

    def record(self, node: NodeId) -> NodeRecord:
        machine = self.machines[node]
        reports = tuple(
            ReplicaReport(
                assignment.replica_id,
                assignment.app,
                assignment.release,
                assignment.index,
                self.health.get(assignment.replica_id, ReplicaHealth.STARTING),
                9000,
                self.restarts.get(assignment.replica_id, 0),
                "",
            )
            for assignment in self.on(node)
        )
        return NodeRecord(
            node, 1, 1, self.facts.members[node].name, (), "", "", "0", 1, machine.cpus, machine.memory_bytes,
            machine.disk_bytes, machine.load_percent, machine.takes_apps, "uid", self.index, "", machine.bundles,
            reports,
        )  # fmt: skip

    def plan(self) -> Plan:
        self.seen = observe(self.seen, self.view())
        return reconcile(self.view())

    def act(self, plan: Plan | None = None) -> Plan:
        """One look and its proposals, all applied."""
        made = self.plan() if plan is None else plan
        for entry in made.entries:
            assert self.say(entry), f"the ledger refused {entry}"
        return made

    def new_leader(self) -> None:
        self.seen = Sightings(led_since=self.now)

    # --- what the nodes do ------------------------------------------------------------------------------------

    def become_healthy(self) -> None:
        """Every replica on a living node that can be healthy is."""
        for assignment in self.facts.assignments.values():
            if self.machines[assignment.node].state is MemberState.ALIVE:
                sick = (assignment.app, assignment.release) in self.broken
                self.health[assignment.replica_id] = ReplicaHealth.UNHEALTHY if sick else ReplicaHealth.HEALTHY

    def settle(self, rounds: int = 100, step_s: float = 1.0) -> int:
        """Look, act, let the nodes do it, until there is nothing to do; the number of rounds it took."""
        for count in range(rounds):
            plan = self.act()
            self.become_healthy()
            if not plan.entries and not self.plan().entries:
                return count
            self.now += step_s
        raise AssertionError(f"still busy after {rounds} rounds: {self.plan()}")

    # --- questions --------------------------------------------------------------------------------------------

    def on(self, node: NodeId) -> list[Assignment]:
        return [assignment for assignment in self.facts.assignments.values() if assignment.node == node]

    def of(self, app: str) -> list[Assignment]:
        return [assignment for assignment in self.facts.assignments.values() if assignment.app == app]

    def live(self, app: str) -> list[Assignment]:
        return [assignment for assignment in self.of(app) if assignment.node not in self.facts.outs]

    def healthy(self, app: str) -> list[Assignment]:
        return [
            assignment
            for assignment in self.live(app)
            if self.health.get(assignment.replica_id) is ReplicaHealth.HEALTHY
            and self.machines[assignment.node].state is MemberState.ALIVE
        ]

    def state(self, app: str) -> ReleaseState:
        return self.facts.apps[app].state

    def manifest(self, app: str) -> Manifest:
        return decode_manifest(self.facts.releases[app, self.facts.apps[app].current].manifest)

    def zones(self, app: str) -> dict[str, int]:
        counted: dict[str, int] = {}
        for assignment in self.live(app):
            zone = self.facts.members[assignment.node].zone
            counted[zone] = counted.get(zone, 0) + 1
        return counted


def assigns(plan: Plan) -> list[Assign]:
    return [entry for entry in plan.entries if isinstance(entry, Assign)]


def unassigns(plan: Plan) -> list[Unassign]:
    return [entry for entry in plan.entries if isinstance(entry, Unassign)]
