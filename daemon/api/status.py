"""`GET /v1/status`: the mesh as this node sees it, and how old that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import trio
from starlette.responses import Response

from consensus.records import Member, MemberStatus
from daemon.api.answers import document
from daemon.api.operations import Call, Operation
from daemon.api.views import app_document, observed
from daemon.services import Services
from daemon.version import VERSION
from scheduler.runtimes.sandbox import OPEN_NETWORK


async def get_status(call: Call) -> Response:
    return document(status_document(call.services))


def status_document(services: Services) -> dict[str, Any]:
    """Answered from memory alone, with or without a quorum."""
    ledger, state = services.ledger, services.ledger.state
    members = state.active_members()
    me = members.get(services.identity.node_id)
    states = Counter(observed(services, node_id).state for node_id in members)
    apps = [app_document(services, name) for name in sorted(state.apps)]
    return {
        "node": {
            "id": services.identity.node_id,
            "name": me.name if me is not None else services.config.name,
            "zone": services.config.zone,
            "version": VERSION,
            "uptime_s": round(trio.current_time() - services.started_at, 1),
            "addresses": services.addresses,
            "sandbox": services.sandbox,
        },
        "mesh": {
            "id": state.mesh.mesh_id if state.mesh else "",
            "epoch": state.mesh.epoch if state.mesh else 0,
            "feature_level": state.mesh.feature_level if state.mesh else 0,
        },
        "quorum": quorum_document(services),
        "nodes": {"total": len(members), **dict(sorted(states.items()))},
        "sees": _sees(services, members.values()),
        "apps": {
            "total": len(apps),
            "replicas": sum(app["replicas"] for app in apps),
            "healthy": sum(app["healthy"] for app in apps),
        },
        "links": len(services.peers.linked()),
        "applied": ledger.state.applied,
        "warnings": _warnings(services, apps),
    }


def _sees(services: Services, members: Iterable[Member]) -> list[dict[str, Any]]:
    """The other members: how each is thought to be, and how long ago anything of its own arrived here."""
    rows = []
    for member in sorted(members, key=lambda member: member.name):
        if member.node_id != services.identity.node_id:
            seen = observed(services, member.node_id)
            heard_s = None if seen.heard_s is None else round(seen.heard_s, 1)
            rows.append({"name": member.name, "state": seen.state, "direct": seen.direct, "heard_s": heard_s})
    return rows


def quorum_document(services: Services) -> dict[str, Any]:
    ledger = services.ledger
    quorum = ledger.quorum()
    names = ledger.state.members
    leader = ledger.leader
    return {
        "has_quorum": quorum.has_leader,
        "leader": names[leader].name if leader is not None and leader in names else None,
        "voters": sorted(names[voter].name if voter in names else voter for voter in quorum.voters),
        "reached": sorted(names[voter].name if voter in names else voter for voter in quorum.reached),
        "reachable": len(quorum.reached),
        "needed": quorum.needed,
        "by_hearsay": quorum.by_hearsay,
        "term": ledger.term,
        "index": ledger.state.applied,
        "age_s": round(ledger.age(), 3),
    }


def _warnings(services: Services, apps: list[dict[str, Any]]) -> list[str]:
    state = services.ledger.state
    found = []
    if state.mesh is None:
        found.append("this node holds nothing yet: it learns the ledger from the other members")
    if notice := services.not_named():
        found.append(notice)
    trusted = [member for member in state.active_members().values() if member.trusted]
    if len(trusted) == 1:
        found.append("one node: what it holds dies with it; `freecloud invite` a second")
    elif len(trusted) == 2:
        found.append("two nodes are durable, not available; from three nodes on, any one may die")
    quorum = services.ledger.quorum()
    if not quorum.has_leader:
        found.append(
            f"no quorum: this node reaches {len(quorum.reached)} of {len(quorum.voters)} voters; "
            "nothing can be changed, all that runs goes on"
        )
        if quorum.reached == (services.identity.node_id,) and len(quorum.voters) > 1:
            found.append("this node is alone")
    elif quorum.by_hearsay:
        found.append("nothing passes between this node and the leader; it takes part by way of the others")
    for member in state.active_members().values():
        if member.status is MemberStatus.DRAINING:
            found.append(f"{member.name} is draining")
        seen = observed(services, member.node_id)
        if seen.state == "down":
            found.append(f"{member.name} is down; see `freecloud nodes why {member.name}`")
        elif not seen.direct:
            found.append(
                f"nothing passes between this node and {member.name}, which others reach; "
                f"see `freecloud nodes why {member.name}`"
            )
    for app in apps:
        found.extend(f"{app['name']}: {debt}" for debt in app["debts"])
    if services.ledger.statistics().read_only:
        found.append("the disk of this node is full: it takes no changes; with some space freed it goes on by itself")
    if services.sandbox == "none":
        found.append("no sandbox works here; this node takes no apps (install bubblewrap)")
    if OPEN_NETWORK in services.sandbox:
        found.append("apps on this node reach what listens on this machine (closing that takes Linux 5.9 or newer)")
    return found


OPERATIONS = (Operation("GET", "/v1/status", "read", "the mesh as this node sees it", get_status),)
