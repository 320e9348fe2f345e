"""What the leader's duties need to know of gossip and of the ledger's Raft group, in their own terms."""

from __future__ import annotations

from collections.abc import Mapping

from consensus.leader_duties import GroupFacts, Seen, Sight
from consensus.ledger import Ledger
from consensus.raft.membership import CATCH_UP_ENTRIES_MAX
from gossip.service import Gossip
from mesh.names import NodeId

HEARD_S_MAX = 0.5
"""A learner that was not heard for longer is not made a voter; the core asks the same (pitfall 12)."""


def sights_of(gossip: Gossip) -> Mapping[NodeId, Seen]:
    """Each member as this node's gossip sees it."""
    return {node_id: Seen(Sight(view.state.value), view.since) for node_id, view in gossip.view().items()}


def group_facts(ledger: Ledger) -> GroupFacts:
    """The ledger's Raft group, as its leader knows it."""
    status = ledger.raft_status()
    configuration = status.configuration
    caught_up = frozenset(
        peer.node_id
        for peer in status.progress
        if peer.match + CATCH_UP_ENTRIES_MAX >= status.commit and peer.heard_s_ago < HEARD_S_MAX
    )
    return GroupFacts(
        voters=configuration.voters,
        learners=configuration.learners,
        caught_up=caught_up,
        changing=bool(configuration.voters_outgoing) or status.configuration_index > status.commit,
    )
