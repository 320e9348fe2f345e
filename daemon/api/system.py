"""The daemon itself: stop it, its background work, recovery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio
from starlette.responses import Response

from consensus.ledger_entries import ChangeMember
from daemon.api.answers import LINES, document, lines
from daemon.api.body import read_json
from daemon.api.clock import deadline_in
from daemon.api.operations import Call, Operation, schema
from daemon.services import Services
from mesh.errors import FreecloudError

STOP = schema((), drain="boolean")

DRAIN_TIMEOUT_S = 90.0


async def stop(call: Call) -> Response:
    wanted = await read_json(call.request, STOP)
    return lines(_stop(call.services, drain=bool(wanted.get("drain"))))


async def _stop(services: Services, *, drain: bool) -> AsyncIterator[dict[str, Any]]:
    """Drain if others can take over, hand over what is led here, then stop once the answer is out."""
    me = services.identity.node_id
    others = [node_id for node_id in services.ledger.state.active_members() if node_id != me]
    if drain and others:
        yield {"text": "moving its apps to other nodes"}
        try:
            entry = ChangeMember(me, None, None, True, None, None, None, None, None)
            await services.ledger.propose(entry, deadline=deadline_in(10))
        except FreecloudError as error:
            yield {"text": f"cannot drain: {error}"}
        else:
            async for left in _assigned(services, deadline_in(DRAIN_TIMEOUT_S)):
                yield {"text": f"{left} replicas still here"}
    if services.ledger.is_leader and others:
        yield {"text": "handing over leadership"}
        try:
            await services.ledger.transfer_leadership(deadline=deadline_in(5))
        except FreecloudError as error:
            yield {"text": f"leadership was not taken over: {error}"}
    yield {"text": "stopping", "stopped": True}
    services.stop()


async def _assigned(services: Services, deadline: float) -> AsyncIterator[int]:
    """How many replicas are still assigned here, until none is or time is up."""
    me = services.identity.node_id
    last = -1
    while trio.current_time() < deadline:
        seen = services.pulse.count
        left = sum(assignment.node == me for assignment in services.ledger.state.assignments.values())
        if left == 0:
            return
        if left != last:
            last = left
            yield left
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
