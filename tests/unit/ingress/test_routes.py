"""Which replicas may answer, and which app a request is for."""

from __future__ import annotations

import pytest

from consensus.records import App, Assignment, ReleaseState
from gossip.record import ReplicaHealth, ReplicaReport
from mesh.names import NodeId
from scheduler.ingress.routes import Asked, NodeSeen, Redirect, build_routes, find_app

A, B = NodeId("a"), NodeId("b")
APPS = {"web": App("web", 1, 0, 2, ReleaseState.STABLE, "", 0, 3)}


def assignment(replica: str, node: NodeId, index: int = 5, app: str = "web") -> Assignment:
    return Assignment(replica, app, 1, node, index, 0, "")


def report(
    replica: str, health: ReplicaHealth = ReplicaHealth.HEALTHY, *, index: int = 5, port: int = 80
) -> ReplicaReport:
    return ReplicaReport(replica, "web", 1, index, health, port, 0, "")


def ready(assignments: dict[str, Assignment], nodes: dict[NodeId, NodeSeen]) -> list[str]:
    return [target.replica_id for target in build_routes(APPS, assignments, nodes).apps["web"].ready]


def test_a_replica_is_ready_when_it_is_assigned_and_reported_healthy() -> None:
    nodes = {A: NodeSeen((report("web-1"),), False), B: NodeSeen((report("web-2"),), False)}
    both = {"web-1": assignment("web-1", A), "web-2": assignment("web-2", B)}
    assert ready(both, nodes) == ["web-1", "web-2"]
    assert ready({"web-1": both["web-1"]}, nodes) == ["web-1"], "an unassigned replica gets nothing new"
    assert ready(both, {A: nodes[A]}) == ["web-1"], "a node that is down gets nothing"


@pytest.mark.parametrize(
    "told",
    [
        report("web-1", ReplicaHealth.STOPPING),
        report("web-1", ReplicaHealth.STARTING),
        report("web-1", ReplicaHealth.UNHEALTHY),
        report("web-1", index=4),
        report("web-1", port=0),
        report("web-9"),
    ],
)
def test_a_replica_is_waited_for_while_its_report_says_anything_else(told: ReplicaReport) -> None:
    route = build_routes(APPS, {"web-1": assignment("web-1", A)}, {A: NodeSeen((told,), False)}).apps["web"]
    assert (route.ready, route.waiting) == ((), 1)


@pytest.mark.parametrize(
    ("told", "coming"),
    [
        ((), 1),
        ((report("web-1", ReplicaHealth.STARTING),), 1),
        ((report("web-1", index=4),), 1),
        ((report("web-1", ReplicaHealth.BACKING_OFF),), 0),
        ((report("web-1", ReplicaHealth.UNHEALTHY),), 0),
        ((report("web-1", ReplicaHealth.STOPPING),), 0),
    ],
)
def test_a_replica_is_coming_while_it_starts_or_was_not_heard_of_yet(
    told: tuple[ReplicaReport, ...], coming: int
) -> None:
    placed = {"web-1": assignment("web-1", A)}
    assert build_routes(APPS, placed, {A: NodeSeen(told, False)}).apps["web"].coming == coming
    assert build_routes(APPS, placed, {}).apps["web"].coming == 0, "nothing comes from a node that is down"


def test_a_replica_reported_by_another_node_than_its_own_is_not_ready() -> None:
    assert ready({"web-1": assignment("web-1", A)}, {B: NodeSeen((report("web-1"),), False)}) == []


def test_replicas_of_suspected_nodes_are_kept_apart() -> None:
    route = build_routes(APPS, {"web-1": assignment("web-1", A)}, {A: NodeSeen((report("web-1"),), True)}).apps["web"]
    assert (len(route.ready), len(route.suspected)) == (0, 1)


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("web.localhost", "/x", Asked("web", "/x", "")),
        ("WEB.localhost:6781", "/x", Asked("web", "/x", "")),
        ("web.localhost.", "/x", Asked("web", "/x", "")),
        ("web.apps.test", "/", Asked("web", "/", "")),
        ("web.localhost", "/apps/other/", Asked("web", "/apps/other/", "")),
        ("127.0.0.1:6781", "/apps/web/", Asked("web", "/", "/apps/web")),
        ("[::1]:6781", "/apps/web/a/b", Asked("web", "/a/b", "/apps/web")),
        ("", "/apps/web/a", Asked("web", "/a", "/apps/web")),
        ("localhost", "/apps/web", Redirect("/apps/web/")),
        ("localhost", "/", None),
        ("a.b.localhost", "/", None),
        ("web.localhost.evil.test", "/", None),
        ("localhost", "/apps//x", None),
        ("localhost", "/apps/WEB/x", None),
        ("localhost", "/apps/%77eb/x", None),
    ],
)
def test_an_app_is_named_by_host_or_else_by_path(host: str, path: str, found: object) -> None:
    assert find_app(host, path, ("localhost", "apps.test")) == found
