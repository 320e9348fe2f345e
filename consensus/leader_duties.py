"""What the leader owes the mesh: voters, first sights, down-too-long, reaping, keys (rules T2, C5, G1).

`Duties` is a machine: fed with what is agreed and what is observed, it says which entries to propose and which
configuration to change to. It lives as long as one leadership; what it remembers (how often a node flapped) may be lost
with it, for it only makes the leader more patient.

Only here does an observation become an entry. Gossip says *down*; the leader says *out*, after three seconds, doubled
with each time that the node went down within five minutes, so that a flapping node moves nothing (fault N4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf

from consensus.ledger_entries import (
    DropKey,
    Entry,
    MarkBack,
    MarkOut,
    MarkRelearned,
    MarkSeen,
    PutSecret,
    RaiseFeatureLevel,
    RemoveMember,
    RotateKey,
)
from consensus.ledger_state import LedgerState
from consensus.records import KeyGeneration, Member, SecretRecord
from consensus.voters import VOTER_REPLACED_AFTER_S, Candidate, VoterStep, next_step
from mesh.names import NodeId

OUT_AFTER_S = 3.0
OUT_AFTER_S_MAX = 96.0
FLAP_MEMORY_S = 300.0
REAP_AFTER_S = 600.0
KEY_KEPT_MS = 24 * 3600 * 1000
LEARNER_LOOK_S = 0.25
"""Nothing signals that a learner has caught up: its acknowledgements are Raft's own affair."""

LOOK_EVERY_S = 30.0
"""Nothing signals that a key or a never-seen member has become old enough; both are measured in minutes or hours."""


class Sight(Enum):
    """How gossip sees a member, as far as duties care."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DOWN = "down"
    LEFT = "left"
    AWAY = "away"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Seen:
    """One member as the leader's gossip sees it."""

    sight: Sight
    since: float  # on the machine's clock


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """The ledger's Raft group, as its leader knows it."""

    voters: frozenset[NodeId]
    learners: frozenset[NodeId]
    caught_up: frozenset[NodeId]
    changing: bool  # a change of the configuration is under way


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again at the latest."""

    entries: tuple[Entry, ...]
    step: VoterStep | None
    again_at: float


class KeyMaker:
    """What rotation needs of the node that leads: fresh keys, and secrets sealed anew. Injected, for it is chance."""

    def __init__(
        self,
        make: Callable[[str, int, Mapping[NodeId, Member], int], KeyGeneration],
        reseal: Callable[[SecretRecord], SecretRecord | None],
    ) -> None:
        self.make = make
        self.reseal = reseal


class Duties:
    """One leadership's memory and judgement."""

    def __init__(self, me: NodeId, keys: KeyMaker) -> None:
        self._me = me
        self._keys = keys
        self._downs: dict[NodeId, list[float]] = {}
        self._unseen: dict[NodeId, float] = {}

    def plan(
        self, now: float, now_ms: int, state: LedgerState, sights: Mapping[NodeId, Seen], group: GroupFacts
    ) -> Plan:
        """Everything that is due now.

        Args:
            now: The machine's clock, which `Seen.since` is on.
            now_ms: The leader's wall clock, for what is measured in minutes.
            state: The ledger as applied here.
            sights: What gossip sees, by member; this node itself counts as alive.
            group: The Raft group.
        """
        members = state.active_members()
        seen = {node: self._seen(node, sights) for node in members}
        self._remember(now, seen)
        again = [now + LOOK_EVERY_S]
        entries: list[Entry] = []
        entries += self._first_sights(members, seen)
        entries += self._outs(now, state, members, seen, again)
        entries += self._reap(now, members, seen)
        entries += self._key_entries(now_ms, state, members)
        entries += self._relearned(members, seen, group)
        level = min((member.feature_level for member in members.values()), default=0)
        if state.mesh is not None and level > state.mesh.feature_level:
            entries.append(RaiseFeatureLevel(level))
        step = None if group.changing else self._voters(now, members, seen, group, again)
        return Plan(tuple(entries), step, min(again))

    def _seen(self, node: NodeId, sights: Mapping[NodeId, Seen]) -> Seen:
        return Seen(Sight.ALIVE, -inf) if node == self._me else sights.get(node, Seen(Sight.UNKNOWN, inf))

    def _remember(self, now: float, seen: Mapping[NodeId, Seen]) -> None:
        """Note each time that a node went down; forgotten after five minutes."""
        for node, one in seen.items():
            times = [time for time in self._downs.get(node, []) if now - time < FLAP_MEMORY_S]
            if one.sight is Sight.DOWN and one.since not in times:
                times.append(one.since)
            self._downs[node] = times
        for node in [node for node in self._downs if node not in seen]:
            del self._downs[node]

    def _patience_s(self, node: NodeId) -> float:
        flaps = max(0, len(self._downs.get(node, ())) - 1)
        return min(OUT_AFTER_S_MAX, OUT_AFTER_S * 2.0**flaps)

    @staticmethod
    def _first_sights(members: Mapping[NodeId, Member], seen: Mapping[NodeId, Seen]) -> Iterable[Entry]:
        new = sorted(
            node for node, member in members.items() if not member.seen_alive and seen[node].sight is Sight.ALIVE
        )
        return [MarkSeen(tuple(new))] if new else []

    def _outs(
        self,
        now: float,
        state: LedgerState,
        members: Mapping[NodeId, Member],
        seen: Mapping[NodeId, Seen],
        again: list[float],
    ) -> Iterable[Entry]:
        for node in sorted(members):
            one = seen[node]
            if node in state.outs:
                if one.sight is Sight.ALIVE:
                    yield MarkBack(node)
            elif one.sight is Sight.DOWN:
                due = one.since + self._patience_s(node)
                if now >= due:
                    yield MarkOut(node, f"down for {now - one.since:.1f} s")
                else:
                    again.append(due)
            elif one.sight is Sight.LEFT:
                # Away is not out: who announced it comes back, and gossip calls it down once it is overdue (rule G4).
                yield MarkOut(node, "it left")

    def _reap(self, now: float, members: Mapping[NodeId, Member], seen: Mapping[NodeId, Seen]) -> Iterable[Entry]:
        """Ten minutes on this clock, in this leadership: a stepped wall clock must not remove a fresh joiner."""
        unseen = {
            node
            for node, member in members.items()
            if not member.seen_alive and seen[node].sight not in (Sight.ALIVE, Sight.SUSPECT)
        }
        self._unseen = {node: self._unseen.get(node, now) for node in unseen}
        for node in sorted(unseen):
            if now - self._unseen[node] >= REAP_AFTER_S:
                yield RemoveMember(node, "never seen alive since it joined")

    def _key_entries(self, now_ms: int, state: LedgerState, members: Mapping[NodeId, Member]) -> Iterable[Entry]:
        """A new generation when one is due; secrets under the newest; old generations dropped after a day."""
        trusted = {node for node, member in members.items() if member.trusted}
        for purpose in sorted({key.purpose for key in state.keys.values()}):
            newest = state.newest_key(purpose)
            if newest is None:
                continue
            if newest.retire or trusted - {share.node_id for share in newest.shares}:
                yield RotateKey(self._keys.make(purpose, newest.generation + 1, members, now_ms))
                continue
            if purpose == "data":
                stale = [secret for secret in state.secrets.values() if secret.generation < newest.generation]
                for secret in sorted(stale, key=lambda secret: secret.name):
                    if (fresh := self._keys.reseal(secret)) is not None:
                        yield PutSecret(fresh)
                if stale:
                    continue
            if now_ms - newest.created_ms >= KEY_KEPT_MS:
                for name, generation in sorted(state.keys):
                    if name == purpose and generation < newest.generation:
                        yield DropKey(purpose, generation)

    def _relearned(
        self, members: Mapping[NodeId, Member], seen: Mapping[NodeId, Seen], group: GroupFacts
    ) -> Iterable[Entry]:
        """Once it is out of the configuration, what a lost log had promised binds nobody: it may start anew.

        Nor are promises owed by a node that leads as the only voter: it has opened an epoch (rule T5).
        """
        for node, member in sorted(members.items()):
            outside = node not in group.voters and node not in group.learners
            outside |= node == self._me and group.voters == {node}
            if member.relearn and outside and seen[node].sight is Sight.ALIVE and not group.changing:
                yield MarkRelearned(node)

    def _voters(
        self,
        now: float,
        members: Mapping[NodeId, Member],
        seen: Mapping[NodeId, Seen],
        group: GroupFacts,
        again: list[float],
    ) -> VoterStep | None:
        candidates = {}
        for node, member in members.items():
            one = seen[node]
            down_for = max(0.0, now - one.since) if one.sight in (Sight.DOWN, Sight.LEFT, Sight.AWAY) else 0.0
            alive = one.sight in (Sight.ALIVE, Sight.SUSPECT)
            candidates[node] = Candidate(member, alive, down_for, node in group.caught_up)
            if node in group.voters and 0.0 < down_for < VOTER_REPLACED_AFTER_S:
                again.append(one.since + VOTER_REPLACED_AFTER_S)
        if group.learners - group.caught_up:
            again.append(now + LEARNER_LOOK_S)
        return next_step(self._me, candidates, group.voters, group.learners)
