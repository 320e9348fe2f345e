"""The members as they are shown to others: frozen, with the age of every fact."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from gossip.members import STATE_OF, Members, MemberState
from gossip.presence import Presence
from gossip.record import NodeRecord, RecordBook
from mesh.names import NodeId


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as this node sees it; `since` and `record_heard_at` are times of this node's monotonic clock."""

    node_id: NodeId
    state: MemberState
    incarnation: int  # 0: no claim of it was heard
    since: float  # in this state
    record: NodeRecord | None
    record_heard_at: float  # -inf: never
    address: str  # host:port for datagrams, "" when none is known


@dataclass(frozen=True, slots=True)
class SwimStatistics:
    members: int  # this node included
    awareness: int  # 0: healthy
    rumours: int  # updates still to be told
    lags: int  # times that this node stood still
    refused: int  # statements and records that proved nothing


def view_of(
    members: Members, records: RecordBook, presence: Presence, *, started: float
) -> dict[NodeId, MemberView]:
    """Every member, this node included, in the order of their ids."""
    body = presence.claim.body
    rows = [(members.me, STATE_OF[body.standing], body.incarnation, started, body.address)]
    rows += [(each.node_id, each.state, each.incarnation, each.since, each.address) for each in members]
    views = {}
    for node_id, state, incarnation, since, address in sorted(rows):
        held = records.get(node_id)
        record = None if held is None else held.record
        heard_at = -inf if held is None else held.heard_at
        views[node_id] = MemberView(node_id, state, incarnation, since, record, heard_at, address)
    return views
