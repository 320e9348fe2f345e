"""What the leader's duties need to know of gossip and of the ledger's Raft group, in their own terms."""

from __future__ import annotations

from collections.abc import Mapping

from consensus.ledger import Ledger

from consensus.leader_duties import GroupFacts, Seen, Sight
from gossip.service import Gossip
from mesh.names import NodeId

CAUGHT_UP_ENTRIES = 256
"""How close behind the leader a learner's log has to be before it may vote; etcd takes 90 %."""


def sights_of(gossip: Gossip) -> Mapping[NodeId, Seen]:
    """Each member as this node's gossip sees it."""
    return {node_id: Seen(Sight(view.state.value), view.since) for node_id, view in gossip.view().items()}


def group_facts(ledger: Ledger) -> GroupFacts:
    """The ledger's Raft group, as its leader knows it."""
    status = ledger.raft_status()
    configuration = status.configuration
    caught_up = frozenset(peer.node_id for peer in status.progress if peer.matched + CAUGHT_UP_ENTRIES >= status.commit)
    return GroupFacts(
        voters=configuration.voters,
        learners=configuration.learners,
        caught_up=caught_up,
        changing=bool(configuration.voters_outgoing) or status.configuration_index > status.commit,
    )
