"""What a leader remembers between two looks at the cluster: since when, by its own clock.

The ledger says *what* is agreed; how long something has been so is measured here, on one monotonic clock, because the
ledger's times are wall times and may step (fault C1). Nothing here is shared or stored: a new leader starts empty and
so waits its full time again, which is the safe side of every rule that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping

from consensus.records import Assignment, ReleaseState
from mesh.names import NodeId
from scheduler.model import EXCLUSIVE_WAIT_S, ClusterView, Condition, Gone, Progress, Sightings, condition_of

TROUBLE_RESTARTS = 5
"""Restarts after which a replica that still is not healthy tries another node: with the default back-off (1, 2, 4, 8,
16 s) that is half a minute, longer than any hiccup of a dependency that a move would not cure either."""

TROUBLE_S = 600.0
"""How long a node is avoided for a release that failed there; a broken app makes one tour of the mesh in that time."""


def observe(before: Sightings, view: ClusterView) -> Sightings:
    """The sightings after this look; `view.seen` is not read."""
    return Sightings(
        led_since=before.led_since,
        gone=_gone(before, view),
        vacated=_vacated(before, view),
        progress=_progress(before, view),
        trouble=_trouble(before, view),
        assignments=dict(view.assignments),
    )


def _gone(before: Sightings, view: ClusterView) -> Mapping[NodeId, Gone]:
    found = {}
    for node in sorted({assignment.node for assignment in view.assignments.values()} | set(view.outs)):
        if view.is_gone(node):
            found[node] = _since(before, view, node)
    return found


def _since(before: Sightings, view: ClusterView, node: NodeId) -> Gone:
    known, mark = before.gone.get(node), view.gone_mark(node)
    return known if known is not None and known.mark == mark else Gone(mark, view.now)


def _vacated(before: Sightings, view: ClusterView) -> Mapping[str, float]:
    """When each app's latest ended assignment ended, as first noticed: never earlier than it really did.

    The replica of a node that is gone could not be told to stop, but neither could it go on: its time counts from
    when the node was seen to be gone, if it stayed so.
    """
    found = {app: at for app, at in before.vacated.items() if at > view.now - 4 * EXCLUSIVE_WAIT_S}
    for replica_id, old in before.assignments.items():
        new = view.assignments.get(replica_id)
        if new is not None and new.index == old.index:
            continue
        ended = _since(before, view, old.node).at if view.is_gone(old.node) else view.now
        found[old.app] = max(found.get(old.app, ended), ended)
    return found


def _progress(before: Sightings, view: ClusterView) -> Mapping[str, Progress]:
    healthy = _healthy_of_current(view)
    found = {}
    for name, app in view.apps.items():
        if app.state is not ReleaseState.ROLLING:
            continue
        last = before.progress.get(name)
        count = healthy.get(name, 0)
        if last is None or last.release != app.current or count > last.healthy_max:
            last = Progress(app.current, count, view.now)
        found[name] = last
    return found


def _healthy_of_current(view: ClusterView) -> dict[str, int]:
    counted: dict[str, int] = {}
    for assignment in view.assignments.values():
        app = view.apps.get(assignment.app)
        is_current = app is not None and app.state is ReleaseState.ROLLING and assignment.release == app.current
        if is_current and condition_of(view, assignment) is Condition.HEALTHY:
            counted[assignment.app] = counted.get(assignment.app, 0) + 1
    return counted


def _trouble(before: Sightings, view: ClusterView) -> Mapping[tuple[str, int, NodeId], float]:
    found = {key: at for key, at in before.trouble.items() if at > view.now - TROUBLE_S}
    for assignment in view.assignments.values():
        if _is_in_trouble(view, assignment):
            found.setdefault((assignment.app, assignment.release, assignment.node), view.now)
    return found


def _is_in_trouble(view: ClusterView, assignment: Assignment) -> bool:
    condition = condition_of(view, assignment)
    if condition is Condition.FAILED:
        return True
    report = view.report(assignment)
    return condition is Condition.BAD and report is not None and report.restarts >= TROUBLE_RESTARTS
