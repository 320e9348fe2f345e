"""Who is probed when, and what the answers mean: regular rounds, urgent ones, pings for others and for the lost."""

from __future__ import annotations

import random

from gossip.awareness import Awareness
from gossip.events import Note
from gossip.judgement import Judgement
from gossip.members import Member, Members, MemberState
from gossip.messages import Ack, Nack, Ping, PingRequest
from gossip.outbox import Outbox, ProbeByStream
from gossip.postman import Postman
from gossip.probe import Probe, Verdict
from gossip.profiles import CONFIRMATIONS, HELPERS, Profile
from gossip.rounds import Rounds
from mesh.names import NodeId

HELPING = frozenset({MemberState.ALIVE})
HEARING = frozenset({MemberState.ALIVE, MemberState.SUSPECT})
LOST = frozenset({MemberState.DOWN, MemberState.UNKNOWN})

GREETINGS_A_TICK = 16
"""Pings to members that appeared in the ledger; the rest of a large mesh is met by push-pull."""


class Prober:
    """Drives the rounds; what they find goes to the judgement."""

    def __init__(
        self,
        profile: Profile,
        members: Members,
        awareness: Awareness,
        judgement: Judgement,
        postman: Postman,
        outbox: Outbox,
        rng: random.Random,
        *,
        now: float,
    ) -> None:
        self._profile = profile
        self._members = members
        self._awareness = awareness
        self._judgement = judgement
        self._postman = postman
        self._outbox = outbox
        self._rng = rng
        self._rounds = Rounds(profile, awareness, rng)
        self._greet: list[NodeId] = []
        # Nodes that started together must not probe in step.
        self._probe_at = now + rng.random() * profile.probe_interval_s
        self._lost_probe_at = now + rng.random() * profile.lost_probe_interval_s

    def next_deadline(self) -> float:
        return min(self._probe_at, self._lost_probe_at, self._rounds.next_deadline())

    def tick(self, now: float, *, wall_ms: int) -> None:
        for relay in self._rounds.take_nacks(now):
            requester = self._members.get(relay.requester)
            if requester is not None:
                self._postman.send(requester, Nack(relay.requester_sequence))
        for probe in self._rounds.take_over(now):
            self._finish(now, probe, wall_ms)
        for probe in self._rounds.wanting_helpers(now):
            self._ask_helpers(probe)
        if now >= self._probe_at:
            self._probe_next(now, wall_ms)
        if now >= self._lost_probe_at:
            self._look_for_the_lost(now)

    def postpone(self, by_s: float) -> None:
        """We stood still for that long: rounds under way get their time back."""
        self._rounds.postpone(by_s)

    def forget(self, node_id: NodeId) -> None:
        """A member was removed."""
        self._rounds.forget(node_id)
        self._greet = [greeted for greeted in self._greet if greeted != node_id]

    def greet(self, now: float, node_ids: tuple[NodeId, ...]) -> None:
        """Ping these soon: they are new, or their address is."""
        self._greet += [node_id for node_id in node_ids if node_id not in self._greet]
        if self._greet:
            self._lost_probe_at = min(self._lost_probe_at, now)

    # Answers.

    def answer_ping(self, member: Member, ping: Ping, source: str, *, incarnation: int) -> None:
        """Somebody probes this node, or whoever had its address before (fault N10)."""
        if ping.target == self._members.me:
            self._postman.send(
                member, Ack(ping.sequence), source=source, introduce=ping.known_incarnation < incarnation
            )

    def probe_for(self, now: float, sender: NodeId, request: PingRequest) -> None:
        """Help another: ping its target; its ack is passed on, its silence too."""
        target = self._members.get(request.target)
        if target is None:
            return
        sequence = self._rounds.relay(now, sender, request.sequence, target.node_id)
        if sequence is not None:
            self._postman.send(target, self._ping(target, sequence))

    def acked(self, now: float, sender: NodeId, sequence: int) -> None:
        """An ack: of our round, or of a ping that we sent for somebody. Whoever sends one has heard us."""
        answering = self._members.get(sender)
        if answering is not None:
            self.note_direct(answering)
        relay = self._rounds.take_relay(sender, sequence)
        if relay is not None:
            requester = self._members.get(relay.requester)
            if requester is not None:
                self._postman.send(requester, Ack(relay.requester_sequence))
            return
        probe = self._rounds.take_acked(sender, sequence)
        if probe is None:
            return
        self._awareness.note(-1)
        target = self._members.get(probe.target)
        if target is not None:
            # Reached through helpers only: the straight way may need another address next time.
            target.failures = 0 if sender == target.node_id else target.failures + 1
            self._note_way(now, target, probe, sender)
        if probe.regular:
            # Better health shortens the wait for the next round already.
            interval_s = self._profile.probe_interval_s * self._awareness.multiplier
            self._probe_at = max(now, min(self._probe_at, probe.started + interval_s))

    def _note_way(self, now: float, target: Member, probe: Probe, sender: NodeId) -> None:
        """A cut between two that others bridge is no death, and has to be told all the same (fault N3)."""
        if sender == target.node_id:
            return
        told = target.is_indirect
        target.detours += 1
        if target.is_indirect and not told:
            waited_ms = round((now - probe.started) * 1000)
            how = f"reached it for us; nothing of its own came in {waited_ms} ms, {target.detours} times running"
            self._outbox.notes.append(Note(target.node_id, "indirect", sender, how))

    def note_direct(self, target: Member) -> None:
        """It answered this node itself, by an ack or by the handshake of a link."""
        if target.is_indirect:
            self._outbox.notes.append(Note(target.node_id, "direct", None, "it answers us itself again"))
        target.detours = 0

    def nacked(self, sender: NodeId, sequence: int) -> None:
        probe = self._rounds.get(sequence)
        if probe is not None:
            probe.nack(sender)

    def stream_result(self, sequence: int, *, alive: bool) -> None:
        probe = self._rounds.get(sequence)
        if probe is not None:
            probe.stream_result(alive)

    def send_failed(self, now: float, target: NodeId) -> None:
        self._rounds.send_failed(now, target)

    # Rounds.

    def probe_urgently(self, now: float, member: Member, *, link_closed: bool) -> None:
        """A short round out of turn, unless one for this member is under way."""
        if self._rounds.probing(member.node_id) and not link_closed:
            return
        probe = self._rounds.start_urgent(now, member.node_id, link_closed=link_closed)
        if probe is not None:
            self._ping_for(now, member, probe)

    def check_suspect(self, now: float, member: Member) -> None:
        """Another suspects it: see for ourselves, so that K independent accusers are found in one round.

        In a large mesh only some look, about twice as many as are needed; all of them would be a storm on one node.
        """
        if self._rng.random() < 2 * CONFIRMATIONS / len(self._members):
            self.probe_urgently(now, member, link_closed=False)

    def _probe_next(self, now: float, wall_ms: int) -> None:
        self._probe_at = now + self._profile.probe_interval_s * self._awareness.multiplier
        member = self._members.next_target(wall_ms)
        if member is None:
            return
        probe = self._rounds.start(now, member.node_id)
        if probe is not None:
            self._ping_for(now, member, probe)

    def _ping_for(self, now: float, member: Member, probe: Probe) -> None:
        if not self._postman.send(member, self._ping(member, probe.sequence)):
            probe.send_failed(now)

    def _ask_helpers(self, probe: Probe) -> None:
        target = self._members.get(probe.target)
        if target is None:
            return
        helpers = self._members.sample(HELPERS, states=HELPING, without=probe.target)
        asked = [
            helper.node_id
            for helper in helpers
            if self._postman.send(helper, PingRequest(probe.sequence, probe.target))
        ]
        probe.ask(tuple(asked))
        self._outbox.stream_probes.append(ProbeByStream(probe.target, probe.sequence, probe.next_deadline()))

    def _finish(self, now: float, probe: Probe, wall_ms: int) -> None:
        member = self._members.get(probe.target)
        if member is None:
            return
        if probe.verdict() is Verdict.BY_STREAM:
            if member.failures == 0:
                self._outbox.notes.append(
                    Note(member.node_id, "datagrams-lost", self._members.me, str(probe.evidence(now)))
                )
            member.failures += 1
            return
        self._awareness.note(probe.health_change())
        member.failures += 1
        if member.state in HEARING or member.probed(wall_ms):
            self._judgement.accuse(now, member, probe.evidence(now), wall_ms=wall_ms)

    def _look_for_the_lost(self, now: float) -> None:
        """Ping newcomers and one of the dead: without this, two halves that were cut apart never meet again."""
        self._lost_probe_at = now + self._profile.lost_probe_interval_s
        greeted, self._greet = self._greet[:GREETINGS_A_TICK], self._greet[GREETINGS_A_TICK:]
        if self._greet:
            self._lost_probe_at = now + self._profile.gossip_interval_s
        targets = [member for member in map(self._members.get, greeted) if member is not None]
        targets += self._members.sample(1, states=LOST)
        for member in targets:
            self._postman.send(member, self._ping(member, self._rounds.next_sequence()))
            if member.state is not MemberState.ALIVE:
                member.failures += 1  # the next ping tries another address; an answer sets it to zero
        for member in self._members:
            if member.state is MemberState.UNKNOWN and now - member.since >= self._profile.unknown_down_s:
                self._judgement.give_up(now, member)

    def _ping(self, member: Member, sequence: int) -> Ping:
        return Ping(sequence, member.node_id, member.incarnation)
