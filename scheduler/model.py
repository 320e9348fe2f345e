"""What the reconciler looks at and what it answers; all frozen, so that a plan can be made anywhere and replayed.

A `ClusterView` is the ledger and the gossip records at one moment, with the clock of whoever looks. Times are
seconds on that machine's monotonic clock: nothing here orders by wall time, which may step (fault C1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from consensus.ledger_entries import Entry
from consensus.records import App, Assignment, Member, MemberStatus, Out, Release
from gossip.members import MemberState
from gossip.record import NodeRecord, ReplicaHealth, ReplicaReport
from mesh.names import NodeId

EXCLUSIVE_WAIT_S = 15.0
"""How long an exclusive replica may still run after its assignment ended: its shim kills it 8 s after the daemon's
last renewal, and the daemon stops renewing when its ledger copy is 4 s old (rule A1). Three seconds are for drift."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What gossip says of a node, as this node heard it."""

    state: MemberState
    record: NodeRecord | None


NOT_HEARD = NodeFacts(MemberState.UNKNOWN, None)


@dataclass(frozen=True, slots=True)
class Progress:
    """The last step forward of an app's rollout."""

    release: int
    healthy_max: int
    at: float


@dataclass(frozen=True, slots=True)
class Gone:
    """A node's absence. A node that was back between two looks is told by its mark, which is another one then."""

    mark: int  # `Out.since_ms`; -1 for a node that is no member any more
    at: float


@dataclass(frozen=True, slots=True)
class Sightings:
    """What this leader has seen, and since when by its own clock; see `scheduler.sightings`.

    A new leader knows nothing of before and therefore waits from the moment it began: too long is safe.
    """

    led_since: float
    gone: Mapping[NodeId, Gone] = field(default_factory=dict)  # marked out or removed
    vacated: Mapping[str, float] = field(default_factory=dict)  # app → since when its last assignment is no more
    progress: Mapping[str, Progress] = field(default_factory=dict)
    trouble: Mapping[tuple[str, int, NodeId], float] = field(default_factory=dict)  # a release failed on that node
    assignments: Mapping[str, Assignment] = field(default_factory=dict)  # at the last look


LONG_SEEN = Sightings(led_since=-inf)
"""For a plan that is only shown: no waiting that comes from a change of leader."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything that `reconcile` may know."""

    now: float
    apps: Mapping[str, App]
    releases: Mapping[tuple[str, int], Release]
    assignments: Mapping[str, Assignment]
    outs: Mapping[NodeId, Out]
    members: Mapping[NodeId, Member]
    gossip: Mapping[NodeId, NodeFacts]
    seen: Sightings = LONG_SEEN

    def facts(self, node_id: NodeId) -> NodeFacts:
        return self.gossip.get(node_id, NOT_HEARD)

    def is_gone(self, node_id: NodeId) -> bool:
        """True when the ledger says so: marked out, or no member (any more). Gossip alone never says it."""
        member = self.members.get(node_id)
        return member is None or member.status is MemberStatus.REMOVED or node_id in self.outs

    def gone_mark(self, node_id: NodeId) -> int:
        """Which absence of a gone node this is."""
        return self.outs[node_id].since_ms if node_id in self.outs else -1

    def report(self, assignment: Assignment) -> ReplicaReport | None:
        """What the node says of this very assignment; None when it doesn't know it (yet), or was not heard."""
        record = self.facts(assignment.node).record
        if record is None:
            return None
        for report in record.replicas:
            if report.replica_id == assignment.replica_id and report.assignment_index == assignment.index:
                return report
        return None

    def name_of(self, node_id: NodeId) -> str:
        member = self.members.get(node_id)
        return node_id[:8] if member is None else member.name


class Condition(Enum):
    """How a replica is, for whoever wants to take it away; the better ones later."""

    GONE = 0  # its node is out or no member
    FAILED = 1  # its node gave up
    BAD = 2  # unhealthy, backing off, stopping
    STARTING = 3
    UNSEEN = 4  # its node is not heard now: it may well serve
    HEALTHY = 5


_CONDITIONS = {
    ReplicaHealth.STARTING: Condition.STARTING,
    ReplicaHealth.HEALTHY: Condition.HEALTHY,
    ReplicaHealth.UNHEALTHY: Condition.BAD,
    ReplicaHealth.BACKING_OFF: Condition.BAD,
    ReplicaHealth.STOPPING: Condition.BAD,
    ReplicaHealth.FAILED: Condition.FAILED,
}


def condition_of(view: ClusterView, assignment: Assignment) -> Condition:
    """How the replica of this assignment is, as far as the ledger and gossip tell.

    DOWN is UNSEEN here: what gossip calls down may be on the other side of a cut, serving; only the ledger's out
    makes it GONE (DESIGN idea 1).
    """
    if view.is_gone(assignment.node):
        return Condition.GONE
    facts = view.facts(assignment.node)
    if facts.record is None or facts.state not in (MemberState.ALIVE, MemberState.SUSPECT):
        return Condition.UNSEEN
    report = view.report(assignment)
    return Condition.STARTING if report is None else _CONDITIONS[report.health]


@dataclass(frozen=True, slots=True)
class Replica:
    """One assignment, judged."""

    assignment: Assignment
    condition: Condition
    current: bool  # of the release that is wanted
    leaving: str  # why it must go from its node; "" when it may stay


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is done, or isn't; about an app, for a person."""

    app: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to propose, in this order, and why; `next_check_s` is when to look again if nothing changes before."""

    entries: tuple[Entry, ...] = ()
    reasons: tuple[Reason, ...] = ()
    next_check_s: float = inf
