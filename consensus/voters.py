"""Who should vote on the ledger: how many, who, and the one next step towards it (rule C5).

At most five voters (1, 2, 3, 5); eligible are trusted members with a durable disk that neither are metered nor sleep.
A majority never stands in one zone if that can be avoided. A voter that was down for ten seconds is replaced, if
somebody can take its place: to drop it alone would make no decision easier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from consensus.records import Member, MemberStatus
from mesh.names import NodeId

VOTER_REPLACED_AFTER_S = 10.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member as the leader sees it now."""

    member: Member
    alive: bool
    down_for_s: float  # 0 while it is not down
    caught_up: bool  # as a learner or voter: its log is close behind


@dataclass(frozen=True, slots=True)
class VoterStep:
    """The next configuration to propose, and why."""

    voters: frozenset[NodeId]
    learners: frozenset[NodeId]
    reason: str


def voter_count(eligible: int) -> int:
    """How many voters a mesh with so many eligible members has."""
    if eligible >= 5:
        return 5
    return 3 if eligible >= 3 else eligible


def next_step(
    me: NodeId, candidates: Mapping[NodeId, Candidate], voters: frozenset[NodeId], learners: frozenset[NodeId]
) -> VoterStep | None:
    """One change of the configuration, or None when it is as it should be.

    A newcomer is made a learner first and a voter once it caught up. No step is proposed whose voters would not have
    a living majority.
    """
    wanted = _wanted(me, candidates, voters)
    gone = [voter for voter in voters if _must_leave(candidates.get(voter))]
    stale = learners - wanted
    missing = sorted(wanted - voters)
    ready = [node for node in missing if node in learners and candidates[node].caught_up]
    if missing and not ready:
        fresh = frozenset(missing) - learners
        if fresh:
            return VoterStep(voters, (learners | fresh) - stale, "learner: " + _names(candidates, fresh))
    new_voters = (wanted & voters) | frozenset(ready)
    if len(new_voters) < len(voters) and not gone and len(wanted) >= len(voters):
        return None  # the newcomers have not caught up yet; the old ones stay until then
    if not new_voters or (new_voters == voters and not stale):
        return None
    if not _lives(new_voters, candidates) or me not in new_voters:
        return None
    changed = new_voters ^ voters
    return VoterStep(new_voters, (learners - new_voters) - stale, "voters: " + (_names(candidates, changed) or "tidy"))


def _wanted(me: NodeId, candidates: Mapping[NodeId, Candidate], voters: frozenset[NodeId]) -> frozenset[NodeId]:
    """The voters that the mesh should have, as few changes from today's as possible."""
    eligible = {node: one for node, one in candidates.items() if _eligible(one)}
    count = voter_count(len(eligible))
    kept = [node for node in voters if node in eligible]
    spare = [node for node in eligible if node not in voters and eligible[node].alive]
    dead = sorted(node for node in kept if eligible[node].down_for_s >= VOTER_REPLACED_AFTER_S)
    room = max(0, count - len(kept))
    for node in dead[: max(0, len(spare) - room)]:
        kept.remove(node)
    chosen = _spread(me, kept, spare, eligible, count)
    return frozenset(_without_zone_majority(me, chosen, spare, eligible))


def _spread(
    me: NodeId, kept: list[NodeId], spare: list[NodeId], eligible: Mapping[NodeId, Candidate], count: int
) -> list[NodeId]:
    """`count` voters: the kept ones, filled up from the zones that have the fewest."""
    chosen = sorted(kept, key=lambda node: (node != me, not eligible[node].alive, node))[:count]
    left = sorted(node for node in spare if node not in chosen)
    while len(chosen) < count and left:
        zones = Counter(eligible[node].member.zone for node in chosen)
        best = min(left, key=lambda node: (zones[eligible[node].member.zone], node))
        chosen.append(best)
        left.remove(best)
    return chosen


def _without_zone_majority(
    me: NodeId, chosen: list[NodeId], spare: list[NodeId], eligible: Mapping[NodeId, Candidate]
) -> list[NodeId]:
    """Swap one voter out of a zone that holds a majority, if another zone has somebody to give."""
    zones = Counter(eligible[node].member.zone for node in chosen)
    crowded = [zone for zone, number in zones.items() if zone and number > len(chosen) // 2]
    if not crowded or len(chosen) < 3:
        return chosen
    others = sorted(node for node in spare if node not in chosen and eligible[node].member.zone not in crowded)
    leaving = sorted(node for node in chosen if eligible[node].member.zone in crowded and node != me)
    if not others or not leaving:
        return chosen
    return [node for node in chosen if node != leaving[-1]] + others[:1]


def _eligible(one: Candidate) -> bool:
    member = one.member
    return (
        member.status is MemberStatus.ACTIVE
        and member.trusted
        and member.may_vote
        and member.seen_alive
        and not member.relearn
    )


def _must_leave(one: Candidate | None) -> bool:
    """A voter that cannot stay one until somebody takes its place: removed, no longer trusted, or with a lost log.

    Being down is no such reason, and neither are draining or the loss of the right to vote: with one voter fewer the
    next lost disk would take the majority along.
    """
    return one is None or not one.member.trusted or one.member.relearn


def _lives(voters: frozenset[NodeId], candidates: Mapping[NodeId, Candidate]) -> bool:
    alive = sum(candidates[node].alive for node in voters if node in candidates)
    return alive >= len(voters) // 2 + 1


def _names(candidates: Mapping[NodeId, Candidate], nodes: frozenset[NodeId]) -> str:
    return ", ".join(sorted(candidates[node].member.name for node in nodes if node in candidates))
