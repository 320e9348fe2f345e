"""Members: list, show, explain, label, drain, remove, invite."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from consensus.ledger_entries import AddInvite, ChangeMember, RemoveMember
from consensus.records import MemberStatus
from daemon.api.answers import document, when
from daemon.api.body import read_json
from daemon.api.clock import wall_ms
from daemon.api.operations import Call, Operation, schema
from daemon.api.patience import change_deadline
from daemon.api.views import find_member, node_document, observed
from daemon.config import is_loopback
from daemon.invites import make_invite
from mesh.claims import check_labels, labels_of
from mesh.errors import RefusedError
from mesh.names import NodeId

INVITE = schema(("uses", "expires_ms"), uses="integer", expires_ms="integer", labels="string[]")
DRAIN = schema(("on",), on="boolean")
LABELS = schema(("labels",), labels="string[]")


async def list_nodes(call: Call) -> Response:
    members = call.services.ledger.state.active_members().values()
    rows = [node_document(call.services, member) for member in sorted(members, key=lambda member: member.name)]
    return document({"nodes": rows, "index": call.services.ledger.state.applied})


async def show_node(call: Call) -> Response:
    return document(node_document(call.services, find_member(call.services, call.path("name"))))


async def why_node(call: Call) -> Response:
    """The story of a node's state: who accused it, by which probes, who confirmed, when (rule G4)."""
    services = call.services
    member = find_member(services, call.path("name"))
    seen = observed(services, member.node_id)
    names = {other.node_id: other.name for other in services.ledger.state.members.values()}
    story: list[dict[str, Any]] = [
        {
            "at": when(note.at_wall_ms),
            "kind": note.kind,
            "by": names.get(note.accuser, note.accuser) if note.accuser else "",
            "text": note.probes,
            "confirmed_by": [names.get(node, node) for node in note.confirmers],
        }
        for note in services.gossip.why(member.node_id)
    ]
    out = services.ledger.state.outs.get(member.node_id)
    summary = f"{member.name} is {seen.state} as {names[services.identity.node_id]} sees it"
    if out is not None:
        summary += f"; the leader took it out at {when(out.since_ms)} ({out.reason})"
    if member.status is MemberStatus.REMOVED:
        summary = f"{member.name} was removed from the mesh"
    return document({"name": member.name, "state": seen.state, "summary": summary, "story": story})


async def create_invite(call: Call) -> Response:
    wanted = await read_json(call.request, INVITE)
    services = call.services
    token, invite = make_invite(
        services,
        uses=wanted["uses"],
        expires_ms=wall_ms() + wanted["expires_ms"],
        labels=tuple(sorted(labels_of(wanted.get("labels") or []).items())),
    )
    await services.ledger.propose(AddInvite(invite), deadline=change_deadline(services))
    notices = []
    if is_loopback(services.addresses["mesh"]):
        notices.append("this node listens on loopback alone: only this machine can use the token (see --listen)")
    return document({"token": token, "id": invite.token_id, "expires": when(invite.expires_ms), "notices": notices})


async def label_node(call: Call) -> Response:
    member = find_member(call.services, call.path("name"))
    wanted = await read_json(call.request, LABELS)
    labels = {**dict(member.labels), **labels_of(wanted["labels"])}
    kept = tuple(sorted((key, value) for key, value in labels.items() if value))
    check_labels(kept)
    await call.services.ledger.propose(_change(member.node_id, labels=kept), deadline=change_deadline(call.services))
    return document({"name": member.name, "labels": dict(kept)})


async def drain_node(call: Call) -> Response:
    member = find_member(call.services, call.path("name"))
    wanted = await read_json(call.request, DRAIN)
    entry = _change(member.node_id, draining=wanted["on"])
    await call.services.ledger.propose(entry, deadline=change_deadline(call.services))
    return document({"name": member.name, "draining": wanted["on"]})


async def remove_node(call: Call) -> Response:
    """Remove a member; refused if that leaves no live quorum, unless its id is typed (fault O1)."""
    services = call.services
    member = find_member(services, call.path("name"))
    voters = services.ledger.quorum().voters
    if member.node_id in voters and call.query("force") != member.node_id:
        others = [voter for voter in voters if voter != member.node_id]
        alive = [voter for voter in others if observed(services, voter).state in ("alive", "suspect")]
        if others and len(alive) < len(others) // 2 + 1:
            raise RefusedError(
                f"without {member.name} the mesh has no quorum",
                why=f"{len(alive)} of its {len(others)} other voters are alive",
                hint=f"to do it all the same: --force {member.node_id}",
                code="member.quorum",
            )
    entry = RemoveMember(member.node_id, f"by {call.principal.name}")
    await services.ledger.propose(entry, deadline=change_deadline(services))
    return document({"name": member.name, "id": member.node_id})


def _change(
    node_id: NodeId, *, labels: tuple[tuple[str, str], ...] | None = None, draining: bool | None = None
) -> ChangeMember:
    return ChangeMember(node_id, labels, None, draining, None, None, None, None, None)


OPERATIONS = (
    Operation("GET", "/v1/nodes", "read", "every member", list_nodes),
    Operation("GET", "/v1/nodes/{name}", "read", "one member", show_node),
    Operation("GET", "/v1/nodes/{name}/why", "read", "why a member is thought to be as it is", why_node),
    Operation("POST", "/v1/nodes/{name}/drain", "admin", "drain a member, or take it back", drain_node, DRAIN),
    Operation("POST", "/v1/nodes/{name}/labels", "admin", "set labels", label_node, LABELS),
    Operation("DELETE", "/v1/nodes/{name}", "admin", "remove a member for good", remove_node),
    Operation("POST", "/v1/invites", "admin", "make an invite token", create_invite, INVITE),
)
