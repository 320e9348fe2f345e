"""The members as they are shown to others: frozen, with the age of every fact."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from gossip.members import STATE_OF, Member, Members, MemberState
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
    record_heard_at: float  # when it was last known to be what the member says of itself; -inf: never
    address: str  # host:port for datagrams, "" when none is known
    heard_at: float = -inf  # a datagram of its own; -inf: never
    is_indirect: bool = False  # it lives, and others alone reach it


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
    mine = records.get(members.me)
    me = MemberView(
        members.me,
        STATE_OF[body.standing],
        body.incarnation,
        started,
        None if mine is None else mine.record,
        -inf if mine is None else mine.heard_at,
        body.address,
        heard_at=inf,
    )
    views = {members.me: me} | {each.node_id: _view(each, records) for each in members}
    return dict(sorted(views.items()))


def _view(member: Member, records: RecordBook) -> MemberView:
    held = records.get(member.node_id)
    heard_at = -inf if held is None else held.heard_at
    if held is not None and member.record_told == records.version(member.node_id):
        heard_at = max(heard_at, member.heard_at)  # its own packets say that there is none newer
    return MemberView(
        member.node_id,
        member.state,
        member.incarnation,
        member.since,
        None if held is None else held.record,
        heard_at,
        member.address,
        member.heard_at,
        member.is_indirect,
    )
