"""Which replicas may answer for an app: derived anew from the ledger and gossip whenever either changes.

A replica is ready when the ledger assigns it and its node reports *that assignment* as healthy: a report under an
older assignment's index is about a process that has no business to serve (rule A1). Whatever is not ready any more
(assignment gone, report STOPPING, node down) gets no new request; what it is answering it may finish.

Source: DESIGN.md A4; the split of observed and agreed facts is its first idea.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from consensus.records import App, Assignment
from gossip.record import ReplicaHealth, ReplicaReport
from mesh.names import NodeId

APP_NAME = re.compile(r"[a-z0-9-]{1,40}")
PATH_PREFIX = "/apps/"


@dataclass(frozen=True, slots=True)
class Target:
    """One replica as the ingress needs it. Equal targets are the same process in the same role."""

    app: str
    replica_id: str
    assignment_index: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class AppRoute:
    """Who answers for one app.

    `suspected` are ready replicas on nodes that are under suspicion: they are asked when nobody else is left.
    `coming` are those of living nodes that start, or whose readiness only has not been heard of yet: the ledger's word
    that an older one goes can be faster than gossip's that the new one is ready.
    """

    name: str
    ready: tuple[Target, ...]
    suspected: tuple[Target, ...]
    waiting: int  # assigned and not ready
    coming: int = 0  # of these, worth a moment's patience


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Every app's route, at one moment."""

    apps: Mapping[str, AppRoute] = field(default_factory=dict)

    def targets(self) -> frozenset[Target]:
        """All that may get a request."""
        return frozenset(target for route in self.apps.values() for target in (*route.ready, *route.suspected))


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What is known of one node: what it says it runs, and how sure we are that it lives."""

    replicas: tuple[ReplicaReport, ...]
    suspected: bool  # a suspicion is out and nobody has confirmed it yet


def build_routes(
    apps: Mapping[str, App], assignments: Mapping[str, Assignment], nodes: Mapping[NodeId, NodeSeen]
) -> RouteTable:
    """The table of this moment.

    Args:
        nodes: Those that are alive or only suspected; one that is down, left or away isn't in it.
    """
    reports = {
        (report.replica_id, report.assignment_index, node_id): report
        for node_id, seen in nodes.items()
        for report in seen.replicas
    }
    return RouteTable({name: _route(name, assignments, nodes, reports) for name in apps})


@dataclass(frozen=True, slots=True)
class Asked:
    """Which app a request is for, and what of its path is the app's."""

    app: str
    path: str
    prefix: str  # what was cut off; "" when the app was named by Host


@dataclass(frozen=True, slots=True)
class Redirect:
    """The path names an app and nothing within it; a relative link there would miss the app."""

    path: str


def find_app(host: str, path: str, suffixes: tuple[str, ...]) -> Asked | Redirect | None:
    """The app that a request is for: by Host `NAME.SUFFIX`, or by path `/apps/NAME/`; None when it names none.

    A Host that names an app wins: there, `/apps/…` is the app's own path.

    Args:
        host: As sent, port included.
        suffixes: Names under which apps live, in lower case: "localhost" and what was configured.
    """
    name = _host_name(host)
    for suffix in suffixes:
        label, dot, rest = name.partition(".")
        if dot and rest == suffix and APP_NAME.fullmatch(label):
            return Asked(label, path, "")
    if not path.startswith(PATH_PREFIX):
        return None
    label, slash, rest = path[len(PATH_PREFIX) :].partition("/")
    if not APP_NAME.fullmatch(label):
        return None
    prefix = PATH_PREFIX + label
    return Asked(label, "/" + rest, prefix) if slash else Redirect(prefix + "/")


def _host_name(host: str) -> str:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    return name.lower().removesuffix(".")


def _route(
    name: str,
    assignments: Mapping[str, Assignment],
    nodes: Mapping[NodeId, NodeSeen],
    reports: Mapping[tuple[str, int, NodeId], ReplicaReport],
) -> AppRoute:
    ready: list[Target] = []
    suspected: list[Target] = []
    waiting = coming = 0
    for assignment in assignments.values():
        if assignment.app != name:
            continue
        report = reports.get((assignment.replica_id, assignment.index, assignment.node))
        if report is None or report.health is not ReplicaHealth.HEALTHY or not report.port:
            waiting += 1
            coming += assignment.node in nodes and (report is None or report.health is ReplicaHealth.STARTING)
            continue
        target = Target(name, assignment.replica_id, assignment.index, assignment.node)
        (suspected if nodes[assignment.node].suspected else ready).append(target)
    return AppRoute(name, tuple(sorted(ready, key=_order)), tuple(sorted(suspected, key=_order)), waiting, coming)


def _order(target: Target) -> tuple[str, int]:
    return target.replica_id, target.assignment_index
