"""The daemon itself: stop it, its background work, recovery."""

from __future__ import annotations

import functools
from typing import Any

import trio
from starlette.responses import Response

from consensus.ledger_entries import ChangeMember
from daemon.api.answers import LINES, Emit, Lines, document
from daemon.api.body import read_json
from daemon.api.clock import deadline_in
from daemon.api.operations import Call, Operation, schema
from daemon.api.patience import change_deadline
from daemon.services import Services
from mesh.errors import FreecloudError

STOP = schema((), drain="boolean")

DRAIN_TIMEOUT_S = 90.0


async def stop(call: Call) -> Response:
    wanted = await read_json(call.request, STOP)
    return Lines(functools.partial(_stop, call.services, bool(wanted.get("drain"))))


async def _stop(services: Services, drain: bool, emit: Emit) -> None:
    """Drain if others can take over, hand over what is led here, then stop once the answer is out."""
    me = services.identity.node_id
    others = [node_id for node_id in services.ledger.state.active_members() if node_id != me]
    if drain and others:
        await emit({"text": "moving its apps to other nodes"})
        try:
            entry = ChangeMember(me, None, None, True, None, None, None, None, None)
            await services.ledger.propose(entry, deadline=change_deadline(services))
        except FreecloudError as error:
            await emit({"text": f"cannot drain: {error}"})
        else:
            await _until_empty(services, deadline_in(DRAIN_TIMEOUT_S), emit)
    if services.ledger.is_leader and others:
        await emit({"text": "handing over leadership"})
        try:
            await services.ledger.transfer_leadership(deadline=deadline_in(5))
        except FreecloudError as error:
            await emit({"text": f"leadership was not taken over: {error}"})
    await emit({"text": "stopping", "stopped": True})
    services.stop()


async def _until_empty(services: Services, deadline: float, emit: Emit) -> None:
    """Wait until no replica is assigned here, or time is up; tell how many are left."""
    me = services.identity.node_id
    last = -1
    while trio.current_time() < deadline:
        seen = services.pulse.count
        left = sum(assignment.node == me for assignment in services.ledger.state.assignments.values())
        if left == 0:
            return
        if left != last:
            last = left
            await emit({"text": f"{left} replicas still here"})
        with trio.move_on_at(deadline):
            await services.pulse.wait_after(seen)


async def list_jobs(call: Call) -> Response:
    """Background work of this node, one row each."""
    return document({"jobs": [job_document(job) for job in call.services.scheduler.jobs()]})


def job_document(job: Any) -> dict[str, Any]:
    return {"name": job.name, "state": job.state, "progress": job.progress, "text": job.text}


OPERATIONS = (
    Operation("POST", "/v1/daemon/stop", "admin", "drain and stop this node's daemon", stop, STOP, LINES),
    Operation("GET", "/v1/jobs", "read", "background work", list_jobs),
)
