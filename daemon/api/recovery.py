"""Going on without a lost majority: who survives and how far each log reaches; then, when told so, the next epoch.

Nothing here happens by itself (rule T5). Looking changes nothing; acting asks for the mesh's id and for the very epoch
that was shown, so that two people who act at once open one epoch, not two.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from consensus.beginnings import term_in_epoch
from consensus.recovery import Survivor
from daemon.api.answers import document
from daemon.api.body import read_json
from daemon.api.clock import deadline_in
from daemon.api.operations import Call, Operation, schema
from daemon.services import Services
from mesh.errors import RefusedError
from mesh.names import NodeId

RECOVER = schema(("mesh_id", "epoch"), mesh_id="string", epoch="integer")

LOOK_S = 5.0
"""Each survivor has three seconds to answer."""

RECOVER_S = 30.0
"""To open the epoch on the best survivor and to have this node hear of it."""


async def look(call: Call) -> Response:
    services = call.services
    survivors = await services.ledger.survivors(deadline=deadline_in(LOOK_S))
    return document(plan_document(services, survivors))


def plan_document(services: Services, survivors: tuple[Survivor, ...]) -> dict[str, Any]:
    """What recovering would do; `survivors` is never empty, this node is one."""
    mesh = services.ledger.state.mesh
    best, *_ = survivors
    hearing = next((survivor for survivor in survivors if survivor.leader is not None), None)
    next_epoch = max(survivor.epoch for survivor in survivors) + 1
    if hearing is not None:
        text = (
            f"{_name(services, hearing.node_id)} hears the leader {_name(services, hearing.leader)}: "
            "there is nothing to recover"
        )
    else:
        text = (
            f"{_absent(services, survivors)}. {_name(services, best.node_id)} holds the best log and would open "
            f"epoch {next_epoch}; whoever returns from epoch {best.epoch} is fenced: what only it holds goes to its "
            "lost+found, and it learns anew"
        )
    return {
        "mesh_id": mesh.mesh_id if mesh else "",
        "epoch": best.epoch,
        "next_epoch": next_epoch,
        "needed": hearing is None,
        "survivors": [_row(services, survivor, best) for survivor in survivors],
        "text": text,
    }


def _row(services: Services, survivor: Survivor, best: Survivor) -> dict[str, Any]:
    notes = []
    if survivor.node_id == best.node_id:
        notes.append("the best log")
    if survivor.node_id == services.identity.node_id:
        notes.append("this node")
    if survivor.leader is not None:
        notes.append(f"hears {_name(services, survivor.leader)}")
    return {
        "name": _name(services, survivor.node_id),
        "id": survivor.node_id,
        "epoch": survivor.epoch,
        "term": term_in_epoch(survivor.term),
        "index": survivor.index,
        "text": ", ".join(notes),
    }


def _absent(services: Services, survivors: tuple[Survivor, ...]) -> str:
    """Who does not answer; what only they hold is lost, and that is what the question is about."""
    answering = {survivor.node_id for survivor in survivors}
    members = services.ledger.state.active_members().values()
    absent = sorted(member.name for member in members if member.trusted and member.node_id not in answering)
    return f"not answering: {', '.join(absent)}" if absent else "all members answer, and none hears a leader"


async def recover(call: Call) -> Response:
    services = call.services
    wanted = await read_json(call.request, RECOVER)
    mesh = services.ledger.state.mesh
    if mesh is None or wanted["mesh_id"] != mesh.mesh_id:
        raise RefusedError("that is not the id of this mesh", hint="see `freecloud status --json`", code="recover.mesh")
    best = await services.ledger.recover(wanted["epoch"], deadline=deadline_in(RECOVER_S))
    text = f"epoch {wanted['epoch']} is open, from the log of {_name(services, best)}"
    services.events.add("mesh.recovered", text)
    return document({"epoch": wanted["epoch"], "leader": _name(services, best), "text": text})


def _name(services: Services, node_id: NodeId | None) -> str:
    member = services.ledger.state.members.get(node_id) if node_id is not None else None
    return member.name if member is not None else str(node_id)[:8]


OPERATIONS = (
    Operation("GET", "/v1/recover", "admin", "who survives, and what recovering would do", look),
    Operation("POST", "/v1/recover", "admin", "go on without the lost majority", recover, RECOVER),
)
