"""The arithmetic of majorities, single and joint; pure functions over a configuration.

In a joint configuration every decision needs a majority of each half (thesis §4.3, pitfall 13). An empty half asks
for nothing. Who is not a voter is never looked at: an acknowledgement or vote of a learner or of a removed replica
cannot count, because nothing here asks for it (pitfall 15).

Source: etcd-io/raft `quorum/`, for the three outcomes of a vote.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from math import inf

from consensus.raft.messages import Configuration
from mesh.names import NodeId


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"  # too many refused for a majority still to be had


def committed_index(configuration: Configuration, match: Callable[[NodeId], int]) -> int:
    """The largest index that a quorum has; 0 without any voter."""
    value = _joint_value(configuration, match)
    return 0 if value == inf else int(value)


def quorum_time(configuration: Configuration, heard_at: Callable[[NodeId], float]) -> float:
    """The latest time since which a quorum has been heard; `inf` without any voter."""
    return _joint_value(configuration, heard_at)


def vote_result(configuration: Configuration, votes: Mapping[NodeId, bool]) -> VoteResult:
    """How an election stands: won in both halves, lost in either, or still open."""
    results = {_majority_vote(half, votes) for half in (configuration.voters, configuration.voters_outgoing)}
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def is_quorum(configuration: Configuration, nodes: Collection[NodeId]) -> bool:
    """Whether these nodes can decide."""
    return vote_result(configuration, dict.fromkeys(nodes, True)) is VoteResult.WON


def _joint_value(configuration: Configuration, value: Callable[[NodeId], float]) -> float:
    return min(_majority_value(half, value) for half in (configuration.voters, configuration.voters_outgoing))


def _majority_value(voters: Collection[NodeId], value: Callable[[NodeId], float]) -> float:
    if not voters:
        return inf
    ascending = sorted(value(voter) for voter in voters)
    return ascending[(len(ascending) - 1) // 2]


def _majority_vote(voters: Collection[NodeId], votes: Mapping[NodeId, bool]) -> VoteResult:
    needed = len(voters) // 2 + 1 if voters else 0
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.LOST if len(voters) - refused < needed else VoteResult.PENDING
