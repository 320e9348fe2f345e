"""Freezing the cluster for one look: the ledger's copies and what gossip says, at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from consensus.ledger_state import LedgerState
from gossip.view import MemberView
from mesh.names import NodeId
from scheduler.model import LONG_SEEN, ClusterView, NodeFacts, Sightings


def look(
    now: float, state: LedgerState, seen_by_gossip: Mapping[NodeId, MemberView], seen: Sightings = LONG_SEEN
) -> ClusterView:
    """The view that `reconcile` and the explanations are made from; later changes do not reach it."""
    return ClusterView(
        now=now,
        apps=dict(state.apps),
        releases=dict(state.releases),
        assignments=dict(state.assignments),
        outs=dict(state.outs),
        members=dict(state.members),
        gossip={node_id: NodeFacts(view.state, view.record) for node_id, view in seen_by_gossip.items()},
        seen=seen,
    )
