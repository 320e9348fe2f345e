"""What a change would lead to, step by step: `--plan` (fault O2, users' feature 18). Pure.

The reconciler's own plans are played on a copy of the view, every new replica taken to become healthy at once, until
nothing is left to do. So it shows the very entries that the leader would propose, in their order; what no plan can
know is how the new release behaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from consensus.ledger_entries import Assign, Entry, SetApp, Unassign
from consensus.records import Assignment
from gossip.record import NodeRecord, ReplicaHealth, ReplicaReport
from mesh.names import NodeId
from scheduler.model import ClusterView, NodeFacts
from scheduler.reconcile import reconcile

ROUNDS_MAX = 200
"""A round moves as many replicas as the manifest allows at once, so this is enough for some hundred replicas."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a plan: "+" starts something, "-" stops something, "~" changes something."""

    sign: str
    text: str


@dataclass(frozen=True, slots=True)
class Forecast:
    steps: tuple[Step, ...]
    reasons: tuple[str, ...]


def forecast(view: ClusterView, app: str) -> Forecast:
    """Everything that would be done for one app from this view on."""
    steps: list[Step] = []
    reasons: list[str] = []
    for _ in range(ROUNDS_MAX):
        plan = reconcile(view)
        reasons += [reason.text for reason in plan.reasons if reason.app == app and reason.text not in reasons]
        entries = [entry for entry in plan.entries if _is_about(entry, view, app)]
        if not entries:
            return Forecast(tuple(steps), tuple(reasons))
        for entry in entries:
            step = _step_of(entry, view)
            steps += [step] if step is not None else []
            view = _after(view, entry)
    steps.append(Step("~", f"… and so on; {ROUNDS_MAX} steps are shown"))
    return Forecast(tuple(steps), tuple(reasons))


def _is_about(entry: Entry, view: ClusterView, app: str) -> bool:
    match entry:
        case Assign(app=name):
            return name == app
        case Unassign(replica_id=replica_id):
            return view.assignments[replica_id].app == app
        case SetApp(app=changed):
            return changed.name == app
    return False


def _step_of(entry: Entry, view: ClusterView) -> Step | None:
    match entry:
        case Assign(release=release, node=node):
            return Step("+", f"a replica of release {release} on {view.name_of(node)}")
        case Unassign(replica_id=replica_id):
            known = view.assignments[replica_id]
            return Step("-", f"{replica_id} (release {known.release}) on {view.name_of(known.node)}")
    return None


def _after(view: ClusterView, entry: Entry) -> ClusterView:
    """The view once this entry has been applied and what it started is healthy."""
    match entry:
        case Assign(app=name, release=release, node=node, reason=reason, number=number):
            index = 1 + max((each.index for each in view.assignments.values()), default=0)
            made = Assignment(f"{name}-{number}", name, release, node, index, 0, reason)
            return replace(
                view,
                assignments={**view.assignments, made.replica_id: made},
                apps={**view.apps, name: replace(view.apps[name], next_replica=number + 1)},
                gossip=_reported(view.gossip, made),
            )
        case Unassign(replica_id=replica_id):
            return replace(view, assignments={key: one for key, one in view.assignments.items() if key != replica_id})
        case SetApp(app=changed):
            settled = replace(changed, next_replica=view.apps[changed.name].next_replica)
            return replace(view, apps={**view.apps, changed.name: settled})
    return view


def _reported(gossip: Mapping[NodeId, NodeFacts], made: Assignment) -> Mapping[NodeId, NodeFacts]:
    facts = gossip.get(made.node)
    if facts is None or facts.record is None:
        return gossip
    report = ReplicaReport(made.replica_id, made.app, made.release, made.index, ReplicaHealth.HEALTHY, 1, 0, "")
    record: NodeRecord = replace(facts.record, replicas=(*facts.record.replicas, report))
    return {**gossip, made.node: NodeFacts(facts.state, record)}
