"""What becomes of statements: who is suspected, who is declared dead, and how this node answers for itself.

Intuition: an accusation is a rumour that its subject may deny. The subject has the length of a suspicion for it,
which is long while one node alone says so, and short once three others found the same independently. The denial is a
new claim, which nobody but the subject can sign.

Source: SWIM (DSN'02) §4.2; Lifeguard (DSN'18) §III.B, §III.C.
"""

from __future__ import annotations

from math import inf

from gossip.awareness import Awareness
from gossip.dissemination import Dissemination, subject_of
from gossip.events import (
    MemberAlive,
    MemberAway,
    MemberDown,
    MemberLeft,
    MemberSuspected,
    Note,
    OwnClaimContested,
    StoodStill,
)
from gossip.members import Applied, Member, Members, MemberState
from gossip.messages import BOOT_SHIFT, Claim, Dead, Evidence, Standing, Statement, StreamOutcome, Suspect
from gossip.outbox import Outbox
from gossip.presence import Presence
from gossip.profiles import CONFIRMATIONS, Profile
from gossip.suspicion import Suspicion, suspicion_bounds
from mesh.names import NodeId

STILL_TOLD_S = 2.0
"""A node that stood still for less is merely busy, and nobody has to be told."""

_UNSEEN = Evidence(0, 0, 0, StreamOutcome.NOT_TRIED, link_closed=False)


class Judgement:
    """Applies statements to the members and keeps the suspicions.

    Args:
        awareness: Worsens when this node is accused: it must have been slow.
        outbox: Where events and notes go.
    """

    def __init__(
        self,
        profile: Profile,
        members: Members,
        presence: Presence,
        awareness: Awareness,
        dissemination: Dissemination,
        outbox: Outbox,
    ) -> None:
        self._profile = profile
        self._members = members
        self._presence = presence
        self._awareness = awareness
        self._dissemination = dissemination
        self._outbox = outbox
        self._suspicions: dict[NodeId, Suspicion] = {}

    def apply(self, now: float, statement: Statement, *, wall_ms: int, tell: bool = True) -> Applied:
        """Hear a statement.

        Args:
            tell: Pass it on if it is news; not so for what a newcomer learns wholesale.
        """
        subject = subject_of(statement)
        if subject == self._members.me:
            return self._about_me(statement)
        member = self._members.get(subject)
        before = None if member is None else (member.state, member.incarnation)
        result = self._members.apply(now, statement, wall_ms=wall_ms)
        if member is None or before is None:
            return result
        if result is Applied.NEWER:
            if tell:
                self._dissemination.push(statement)
            self._changed(now, member, statement, before)
        elif result is Applied.CONFIRMS and isinstance(statement, Suspect):
            self._confirmed(member, statement)
        return result

    def accuse(self, now: float, member: Member, evidence: Evidence, *, wall_ms: int) -> None:
        """Our own round found no life: begin a suspicion, or confirm the one there is."""
        if member.claim is not None:
            self.apply(now, Suspect(member.claim, self._members.me, evidence), wall_ms=wall_ms)

    def declare_due(self, now: float, *, wall_ms: int) -> None:
        """Declare dead whose suspicion ran out."""
        for node_id in [node_id for node_id, kept in self._suspicions.items() if kept.deadline() <= now]:
            member = self._members.get(node_id)
            assert member is not None and member.claim is not None, "a suspicion without a claim"
            self.apply(now, Dead(member.claim, self._members.me), wall_ms=wall_ms)

    def give_up(self, now: float, member: Member) -> None:
        """A member that nobody ever heard is down for us; without a claim there is nothing to tell others."""
        member.given_up = True
        member.since = now
        self._outbox.events.append(MemberDown(member.node_id, 0, self._members.me))
        self._outbox.notes.append(Note(member.node_id, "never-heard", self._members.me))

    def forget(self, node_id: NodeId) -> None:
        """A member was removed."""
        self._suspicions.pop(node_id, None)

    def postpone(self, by_s: float) -> None:
        """This node stood still for so long: whoever was silent meanwhile may have spoken."""
        if by_s >= STILL_TOLD_S:
            self._outbox.events.append(StoodStill(by_s))
            how = f"this node did nothing for {by_s:.0f} s"
            self._outbox.notes.append(Note(self._members.me, "stood-still", None, how))
        for suspicion in self._suspicions.values():
            suspicion.postpone(by_s)

    def next_deadline(self) -> float:
        return min((suspicion.deadline() for suspicion in self._suspicions.values()), default=inf)

    def _changed(
        self, now: float, member: Member, statement: Statement, before: tuple[MemberState, int]
    ) -> None:
        match statement:
            case Claim():
                self._suspicions.pop(member.node_id, None)
                self._claimed(member, statement, before)
            case Suspect():
                self._suspected(now, member, statement)
            case Dead():
                self._dead(member, statement)

    def _claimed(self, member: Member, claim: Claim, before: tuple[MemberState, int]) -> None:
        body = claim.body
        node_id = member.node_id
        match body.standing:
            case Standing.AWAY:
                self._outbox.events.append(MemberAway(node_id, body.until_ms))
                self._outbox.notes.append(Note(node_id, "away"))
            case Standing.LEFT:
                self._outbox.events.append(MemberLeft(node_id, body.incarnation))
                self._outbox.notes.append(Note(node_id, "left"))
            case Standing.HERE:
                restarted = before[1] >> BOOT_SHIFT != body.incarnation >> BOOT_SHIFT
                if before[0] is not MemberState.ALIVE or restarted:
                    self._outbox.events.append(MemberAlive(node_id, body.incarnation))
                    self._outbox.notes.append(Note(node_id, "alive", probes=_how(before[0], restarted)))

    def _suspected(self, now: float, member: Member, suspect: Suspect) -> None:
        shortest_s, longest_s = suspicion_bounds(
            len(self._members),
            self._profile.suspicion_factor,
            self._profile.suspicion_stretch,
            self._profile.probe_interval_s,
        )
        self._suspicions[member.node_id] = Suspicion(
            member.incarnation,
            suspect.accuser,
            suspect.evidence,
            started=now,
            # Neither the accused nor its first accuser can confirm.
            expected=min(CONFIRMATIONS, self._members.live() - 2),
            shortest_s=shortest_s,
            longest_s=longest_s,
        )
        self._outbox.events.append(MemberSuspected(member.node_id, member.incarnation, suspect.accuser))
        self._outbox.notes.append(Note(member.node_id, "suspected", suspect.accuser, str(suspect.evidence)))

    def _confirmed(self, member: Member, suspect: Suspect) -> None:
        suspicion = self._suspicions.get(member.node_id)
        if suspicion is not None and suspicion.confirm(suspect.accuser):
            self._dissemination.push(suspect)
            self._outbox.notes.append(Note(member.node_id, "confirmed", suspect.accuser, str(suspect.evidence)))

    def _dead(self, member: Member, dead: Dead) -> None:
        suspicion = self._suspicions.pop(member.node_id, None)
        accuser = dead.accuser if suspicion is None else suspicion.accuser
        evidence = _UNSEEN if suspicion is None else suspicion.evidence
        confirmers = () if suspicion is None else suspicion.confirmers
        probes = "heard from others" if suspicion is None else str(evidence)
        self._outbox.events.append(MemberDown(member.node_id, member.incarnation, accuser))
        self._outbox.notes.append(Note(member.node_id, "down", accuser, probes, confirmers))

    def _about_me(self, statement: Statement) -> Applied:
        """Somebody says something about this node. Innocent reasons for each branch:

        1. An old accusation, from whom our newer claim has not reached: tell it again.
        2. A claim of ours, come back to us.
        3. An accusation of the present claim: we were slow, or cut off. Refute it.
        4. Another claim, not below ours, that we did sign: a life before an emptied disk (whose counter of starts was
           the same, perhaps, and its address another), or a clone's. Claim above it.
        5. Such a one that we never signed, or an accusation of one: a lie. Nobody else will believe it.
        """
        claim = statement if isinstance(statement, Claim) else statement.claim
        incarnation, mine = claim.body.incarnation, self._presence.incarnation
        if incarnation < mine:
            if not isinstance(statement, Claim):
                self._dissemination.push(self._presence.claim)
            return Applied.STALE
        is_present = claim == self._presence.claim
        if is_present and isinstance(statement, Claim):
            return Applied.STALE
        if self._presence.standing is Standing.LEFT:
            return Applied.STALE
        if not is_present:
            if not self._members.signed_by_me(claim):
                self._members.refused += 1
                return Applied.REFUSED
            self._outbox.events.append(OwnClaimContested(incarnation))
        if not isinstance(statement, Claim):
            self._awareness.note(1)
            how = str(statement.evidence) if isinstance(statement, Suspect) else "called it dead; it objected"
            self._outbox.notes.append(Note(self._members.me, "accused", statement.accuser, how))
        self._dissemination.push(self._presence.refute(incarnation))
        return Applied.NEWER


def _how(state: MemberState, restarted: bool) -> str:
    if state is MemberState.UNKNOWN:
        return "first heard"
    return "started anew" if restarted else f"objected, was {state.value}"
