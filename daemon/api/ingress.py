"""The ingress of this node: its sums, what it knows of each replica, and the account of every request that failed."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from daemon.api.answers import document, when
from daemon.api.operations import Call, Operation
from daemon.services import Services
from scheduler.ingress.accounts import RequestRecord


async def get_ingress(call: Call) -> Response:
    services = call.services
    figures = services.ingress.statistics()
    members = services.ledger.state.members
    return document(
        {
            "address": services.addresses["ingress"],
            "requests": figures.requests,
            "in_flight": figures.in_flight,
            "retries": figures.retries,
            "connect_failures": figures.connect_failures,
            "bytes_sent": figures.bytes_sent,
            "ends": dict(figures.ends),
            "replicas": [
                {
                    "id": each.target.replica_id,
                    "app": each.target.app,
                    "node": members[each.target.node].name if each.target.node in members else each.target.node,
                    "latency_ms": round(each.latency_s * 1000, 3),
                    "in_flight": each.in_flight,
                    "failures": each.failures,
                }
                for each in services.ingress.target_statistics()
            ],
            "failed": [_record_document(services, record) for record in services.ingress.accounts.failed()],
        }
    )


def _record_document(services: Services, record: RequestRecord) -> dict[str, Any]:
    """One request's account; neither path nor headers, which may hold what is not for every reader."""
    member = services.ledger.state.members.get(record.node) if record.node is not None else None
    return {
        "at": when(record.at_ms),
        "app": record.app,
        "method": record.method,
        "request_id": record.request_id,
        "replica": record.replica_id,
        "node": member.name if member is not None else "",
        "end": record.end.value,
        "status": record.status,
        "bytes_sent": record.bytes_sent,
        "tries": record.tries,
        "retries": record.retries,
        "duration_ms": round(record.duration_s * 1000, 3),
        "detail": record.detail,
    }


OPERATIONS = (Operation("GET", "/v1/ingress", "read", "what this node relayed, and every failure", get_ingress),)
