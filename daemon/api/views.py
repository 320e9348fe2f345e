"""What a node, an app and a replica look like to a caller: made from the ledger and from what gossip observed.

Every observed fact has its age and its source (rule G3); agreed facts have the ledger's index beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import trio

from consensus.records import Assignment, Member, MemberStatus
from daemon.services import Services
from gossip.record import NodeRecord, ReplicaHealth, ReplicaReport
from gossip.view import MemberView
from mesh.errors import MissingError
from mesh.names import NodeId


@dataclass(frozen=True, slots=True)
class Observed:
    """What gossip last heard of a member."""

    state: str
    record: NodeRecord | None
    age_s: float | None  # since it was known to be as its record says
    heard_s: float | None  # since anything of its own arrived here
    direct: bool  # False: others alone reach it


def observed(services: Services, node_id: NodeId) -> Observed:
    """This member as gossip sees it; this very node is alive and its facts are fresh."""
    view: MemberView | None = services.gossip.view().get(node_id)
    if node_id == services.identity.node_id:
        return Observed("alive", view.record if view else None, 0.0, 0.0, True)
    if view is None:
        return Observed("unknown", None, None, None, True)
    now = trio.current_time()
    age_s = None if view.record is None else max(0.0, now - view.record_heard_at)
    heard_s = min(max(0.0, now - view.heard_at), services.peers.silent_s(node_id))
    return Observed(view.state.value, view.record, age_s, None if heard_s == inf else heard_s, not view.is_indirect)


def find_member(services: Services, name: str) -> Member:
    """The member of this name or id (or the id's beginning, if that is unique).

    Raises:
        MissingError: None, or more than one.
    """
    members = services.ledger.state.members
    exact = [member for member in members.values() if name in (member.name, member.node_id)]
    found = exact or [member for member in members.values() if len(name) >= 4 and member.node_id.startswith(name)]
    alive = [member for member in found if member.status is not MemberStatus.REMOVED] or found
    if len(alive) != 1:
        raise MissingError(f"no node {name!r}", hint="see `freecloud nodes list`")
    return alive[0]


def role(services: Services, node_id: NodeId) -> str:
    """leader, voter, or observer."""
    if services.ledger.leader == node_id:
        return "leader"
    return "voter" if node_id in services.ledger.quorum().voters else "observer"


def node_document(services: Services, member: Member) -> dict[str, Any]:
    """One member, for `nodes list` and `nodes show`."""
    seen = observed(services, member.node_id)
    state = services.ledger.state
    record = seen.record
    shown = seen.state
    if member.status is MemberStatus.REMOVED:
        shown = "removed"
    elif member.status is MemberStatus.DRAINING and shown == "alive":
        shown = "draining"
    addresses = record.mesh_addresses if record else member.addresses
    return {
        "id": member.node_id,
        "name": member.name,
        "state": shown,
        "self": member.node_id == services.identity.node_id,
        "role": role(services, member.node_id),
        "zone": member.zone,
        "provider": member.provider,
        "labels": dict(member.labels),
        "trusted": member.trusted,
        "address": addresses[0] if addresses else "",
        "api": record.api_address if record else "",
        "ingress": record.ingress_address if record else "",
        "version": record.program_version if record else "",
        "sandbox": record.sandbox if record else "",
        "takes_apps": record.takes_apps if record else False,
        "cpus": record.cpus if record else 0,
        "memory_bytes": record.memory_bytes if record else 0,
        "disk_free_bytes": record.disk_free_bytes if record else 0,
        "load_percent": record.load_percent if record else 0,
        "out": member.node_id in state.outs,
        "replicas": sum(assignment.node == member.node_id for assignment in state.assignments.values()),
        "age_s": seen.age_s,
        "heard_s": seen.heard_s,
        "direct": seen.direct,
        "source": "itself" if member.node_id == services.identity.node_id else "gossip",
    }


def report_of(services: Services, assignment: Assignment) -> tuple[ReplicaReport | None, float | None]:
    """What the node that runs this replica says of it, and how old that is."""
    seen = observed(services, assignment.node)
    reports = (
        services.runner.reports()
        if assignment.node == services.identity.node_id
        else (seen.record.replicas if seen.record else ())
    )
    for report in reports:
        if (report.replica_id, report.assignment_index) == (assignment.replica_id, assignment.index):
            return report, seen.age_s
    return None, seen.age_s


def replica_document(services: Services, assignment: Assignment) -> dict[str, Any]:
    report, age_s = report_of(services, assignment)
    member = services.ledger.state.members[assignment.node]
    seen = observed(services, assignment.node)
    health = report.health.value if report else "assigned"
    if seen.state in ("down", "left"):
        health = "unreachable"
    return {
        "id": assignment.replica_id,
        "release": assignment.release,
        "node": member.name,
        "node_id": member.node_id,
        "zone": member.zone,
        "health": health,
        "restarts": report.restarts if report else 0,
        "detail": report.detail if report else "",
        "reason": assignment.reason,
        "index": assignment.index,
        "age_s": age_s,
    }


def app_document(services: Services, name: str) -> dict[str, Any]:
    """One app with its replicas and releases.

    Raises:
        MissingError: No such app.
    """
    state = services.ledger.state
    app = state.apps.get(name)
    if app is None:
        raise MissingError(f"no app {name!r}", hint="see `freecloud apps list`")
    placed = [
        replica_document(services, assignment)
        for assignment in sorted(state.assignments.values(), key=lambda assignment: assignment.index)
        if assignment.app == name
    ]
    releases = [
        {"release": release.number, "bundle": release.bundle[:16], "created_ms": release.created_ms}
        for (owner, _), release in sorted(state.releases.items())
        if owner == name
    ]
    holders = bundle_holders(services, state.releases[name, app.current].bundle)
    debts = [] if len(holders) >= 2 else [f"release {app.current} lies on one node only; it wants a second copy"]
    return {
        "name": name,
        "state": app.state.value,
        "reason": app.reason,
        "release": app.current,
        "replicas": app.replicas,
        "healthy": sum(replica["health"] == ReplicaHealth.HEALTHY.value for replica in placed),
        "address": app_addresses(services, name)[0],
        "addresses": app_addresses(services, name),
        "placed": placed,
        "releases": releases,
        "holders": holders,
        "debts": debts,
    }


def bundle_holders(services: Services, bundle: str) -> list[str]:
    """Names of the members that say they hold this bundle, or held it when it was deployed and are alive."""
    names = []
    for member in services.ledger.state.active_members().values():
        seen = observed(services, member.node_id)
        if seen.record is not None and bundle[:16] in seen.record.bundles and seen.state in ("alive", "suspect"):
            names.append(member.name)
    return sorted(names)


def app_addresses(services: Services, name: str) -> list[str]:
    """Where a browser finds the app through this node."""
    address = services.addresses["ingress"]
    port = address.rpartition(":")[2]
    return [f"http://{name}.localhost:{port}/", f"http://{address}/apps/{name}/"]
