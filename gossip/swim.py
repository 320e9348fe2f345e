"""Swim: who of the members is there, found out by all of them together. The machine that ties the parts.

Intuition: every node pokes one other per interval, each in its turn. No answer, and a few others are asked to poke
too; still none, and the silent one is *suspected* aloud, so that it can object. What anyone learns rides on the pokes
to the next ones. So each node sends the same few packets however large the mesh is, and a death is known everywhere
within a few rounds.

Inputs change state, `take_output` drains what is to be done, `next_deadline` says when to come back (`mesh.machine`).
Times are seconds on one monotonic clock; wall time is only for planned absences, and comes in by `set_wall_clock`.

Source: SWIM (DSN'02); Lifeguard (DSN'18); resurrection of the dead and push-pull as in memberlist and serf.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from math import inf

from gossip.anti_entropy import Conversation, Knowledge
from gossip.awareness import Awareness
from gossip.dissemination import Dissemination, subject_of
from gossip.events import Note, RecordChanged
from gossip.judgement import Judgement
from gossip.members import Applied, Members, MemberState, Verify
from gossip.messages import (
    Ack,
    Claim,
    MemberFacts,
    Nack,
    Packet,
    Ping,
    PingRequest,
    PushPull,
    PushPullReply,
    RecordAdvert,
    Rumour,
    Standing,
    Statement,
    Suspect,
)
from gossip.outbox import Exchange, Outbox, Output
from gossip.postman import Postman
from gossip.presence import Presence
from gossip.prober import HEARING, HELPING, LOST, Prober
from gossip.profiles import AWARENESS_MAX, CONFIRMATIONS, Profile
from gossip.record import NodeRecord, RecordBook, Sign
from gossip.view import MemberView, SwimStatistics, view_of
from gossip.wishes import Wishes
from mesh.names import NodeId

LINKED_UP_TO = 16
"""Members of a mesh in which every pair keeps a link."""

SUSPENDED_MS = 5_000
"""A leap of the wall clock that is taken for a suspend; less is what NTP does."""

AWAY_MS_MAX = 30 * 24 * 3600 * 1000
"""An absence longer than an invite may live is no absence: remove the member."""


class Swim:
    """One node's membership machine.

    Args:
        me: This node; never probed, never applied to.
        address: host:port of its datagrams, told to others in its claim.
        boot_counter: Of this start.
        sign, verify: Ed25519 by this node's key, and by anyone's.
        rng: The only source of chance.
        now: The time of its making.
    """

    def __init__(
        self,
        me: NodeId,
        profile: Profile,
        *,
        address: str,
        boot_counter: int,
        sign: Sign,
        verify: Verify,
        rng: random.Random,
        now: float,
    ) -> None:
        self._me = me
        self._profile = profile
        self._rng = rng
        self._now = now
        self._wall_offset_ms = 0
        self._outbox = Outbox()
        self._members = Members(me, verify, rng)
        self._awareness = Awareness(profile.awareness_start, AWARENESS_MAX)
        self._presence = Presence(me, boot_counter=boot_counter, address=address, sign=sign)
        self._dissemination = Dissemination(accusers_max=CONFIRMATIONS + 1)
        self._judgement = Judgement(
            profile, self._members, self._presence, self._awareness, self._dissemination, self._outbox
        )
        self._records = RecordBook(
            me, boot_counter=boot_counter, slow_facts_s=profile.slow_facts_s, sign=sign, verify=verify
        )
        self._postman = Postman(
            self._members, self._presence, self._records, self._dissemination, self._outbox
        )
        self._prober = Prober(
            profile,
            self._members,
            self._awareness,
            self._judgement,
            self._postman,
            self._outbox,
            rng,
            now=now,
        )
        self._knowledge = Knowledge(self._members, self._records, self._presence)
        self._wishes = Wishes()
        self._started = now
        self._lags = 0
        self._runs = False
        self._push_pull_at = now + rng.random() * profile.push_pull_interval_s
        self._gossip_at = inf
        self._dissemination.push(self._presence.claim)

    # What is asked of it.

    def view(self) -> dict[NodeId, MemberView]:
        """Every member, this node included, in the order of their ids."""
        return view_of(self._members, self._records, self._presence, started=self._started)

    def state_of(self, node_id: NodeId) -> MemberState:
        """The state of one member; UNKNOWN of a stranger."""
        member = self._members.get(node_id)
        return MemberState.UNKNOWN if member is None else member.state

    def is_member(self, node_id: NodeId) -> bool:
        return node_id in self._members

    @property
    def incarnation(self) -> int:
        return self._presence.incarnation

    @property
    def claim_is_told(self) -> bool:
        """Whether what this node last claimed was sent as often as it is worth, or there is nobody to hear it."""
        if not self._dissemination.telling(self._me):
            return True
        return not any(member.state in HEARING for member in self._members)

    def statistics(self) -> SwimStatistics:
        return SwimStatistics(
            len(self._members),
            self._awareness.score,
            len(self._dissemination),
            self._lags,
            self._members.refused + self._records.refused,
        )

    def next_deadline(self) -> float:
        return min(
            self._push_pull_at,
            self._gossip_at,
            self._prober.next_deadline(),
            self._judgement.next_deadline(),
            self._records.next_deadline(),
            self._wishes.next_deadline(),
        )

    def take_output(self) -> Output:
        self._outbox.exchanges.extend(self._wishes.take(self._now))
        return self._outbox.drain()

    # Inputs from this node.

    def set_wall_clock(self, now: float, wall_ms: int) -> None:
        """What the wall shows now; it ends planned absences, and orders nothing.

        When it leaps while the monotonic clock does not, this machine was suspended (or somebody set the clock):
        what was heard before proves nothing now, so everyone gets a little time and we look again.
        """
        self._advance(now)
        offset_ms = wall_ms - round(now * 1000)
        leapt_ms = offset_ms - self._wall_offset_ms
        self._wall_offset_ms = offset_ms
        if self._runs and leapt_ms > SUSPENDED_MS:
            self._stood_still(now, self._profile.probe_interval_s * 2)

    def set_members(self, now: float, keys: Mapping[NodeId, bytes]) -> None:
        """The ledger's members and their public keys: only these exist."""
        self._advance(now)
        gone, fresh = self._members.replace(now, keys)
        for node_id in sorted(gone):
            for part in (self._judgement, self._dissemination, self._prober, self._records, self._wishes):
                part.forget(node_id)
        self._prober.greet(now, fresh)

    def set_addresses(self, now: float, node_id: NodeId, addresses: Iterable[str]) -> None:
        """Where the ledger says that a member is; it is greeted there if it was never heard."""
        self._advance(now)
        member = self._members.get(node_id)
        if member is None or member.ledger_addresses == tuple(addresses):
            return
        member.ledger_addresses = tuple(addresses)
        if member.state in LOST:
            self._prober.greet(now, (node_id,))

    def set_address(self, now: float, address: str) -> None:
        """This node is reached elsewhere from now on."""
        self._advance(now)
        if address != self._presence.claim.body.address:
            self._tell(now, self._presence.move(address))

    def publish(self, now: float, record: NodeRecord) -> None:
        """What this node says of itself; numbered, signed and told when due.

        Raises:
            ExhaustedError: It is too large; the last one stands.
        """
        self._advance(now)
        self._records.publish(now, record)

    def leave(self, now: float) -> None:
        """Say goodbye: nobody needs to suspect this node. It still answers until it stops."""
        self._advance(now)
        if self._presence.standing is not Standing.LEFT:
            self._tell(now, self._presence.stand(Standing.LEFT))

    def announce_away(self, now: float, until_ms: int) -> None:
        """Plan an absence until that wall time; 0 ends it."""
        self._advance(now)
        if self._presence.standing is Standing.LEFT:
            return
        wall_ms = self._wall_ms(now)
        if until_ms > wall_ms:
            self._tell(now, self._presence.stand(Standing.AWAY, min(until_ms, wall_ms + AWAY_MS_MAX)))
        elif self._presence.standing is Standing.AWAY:
            self._tell(now, self._presence.stand(Standing.HERE))

    # Inputs from the links.

    def peer_link_closed(self, now: float, node_id: NodeId) -> None:
        """The kernel of a member closed its link: it may have died this instant, so look at once."""
        self._advance(now)
        member = self._members.get(node_id)
        if member is None or member.state not in HEARING:
            return
        self._outbox.notes.append(Note(node_id, "link-closed"))
        self._prober.probe_urgently(now, member, link_closed=True)

    def peer_link_opened(self, now: float, node_id: NodeId) -> None:
        """A link to a member came up; if it was lost to us, compare everything with it now."""
        self._advance(now)
        member = self._members.get(node_id)
        if member is None:
            return
        self._prober.note_direct(member)
        if member.state is not MemberState.ALIVE:
            self._wishes.want_all(node_id)
        elif self._records.get(node_id) is None:
            self._wishes.want(node_id, node_id)

    def want_links(self, now: float, linked: Iterable[NodeId]) -> None:
        """In a small mesh, fetch something from every living member without a link: that opens one.

        A link that its kernel closes is the fastest news of a death; a large mesh has its probes.
        """
        self._advance(now)
        if len(self._members) <= LINKED_UP_TO:
            have = frozenset(linked)
            for member in self._members:
                if member.state is MemberState.ALIVE and member.node_id not in have:
                    self._wishes.want(member.node_id, member.node_id)

    def receive_stream_result(self, now: float, sequence: int, *, alive: bool) -> None:
        """What `ProbeByStream` found. It counts only at the end of the round."""
        self._advance(now)
        self._prober.stream_result(sequence, alive=alive)

    def send_failed(self, now: float, to: NodeId) -> None:
        """A datagram never left this machine: whoever waits for its answer waits in vain (pitfall 37)."""
        self._advance(now)
        self._prober.send_failed(now, to)

    def begin_exchange(self, now: float, exchange: Exchange) -> Conversation:
        """The asking side of a push-pull, to be carried over the link to `exchange.peer`."""
        self._advance(now)
        fetch = bool(exchange.wanted)
        return Conversation(
            self._knowledge, lambda facts: self._merge(self._now, facts, news=fetch), wanted=exchange.wanted
        )

    def receive_reply(self, now: float, conversation: Conversation, reply: PushPullReply) -> None:
        """The peer's answer to `conversation.request`.

        Raises:
            ProtocolError: It does not fit; end the exchange as incomplete.
        """
        self._advance(now)
        conversation.receive(reply)
        self._plan_gossip(now)

    def exchange_finished(self, now: float, peer: NodeId, *, complete: bool) -> None:
        self._advance(now)
        self._wishes.finished(now, peer, complete=complete)

    def answer(self, now: float, request: PushPull) -> PushPullReply:
        """The answering side of a push-pull."""
        self._advance(now)
        reply = self._knowledge.answer(request, lambda facts: self._merge(now, facts, news=False))
        self._plan_gossip(now)
        return reply

    # Datagrams.

    def receive(self, now: float, sender: NodeId, packet: Packet, *, source: str = "") -> None:
        """A packet that `sender` sealed.

        Args:
            source: host:port that it came from; answers go there.
        """
        self._advance(now)
        member = self._members.get(sender)
        if member is None:
            return
        member.heard_at = now
        member.heard_from = source or member.heard_from
        for update in packet.updates:
            if isinstance(update, RecordAdvert):
                self._hear_of_record(sender, update)
            else:
                self._hear(now, update)
        if packet.incarnation > member.incarnation:
            self._wishes.want(sender, sender)
        member.record_told = (packet.record_boot, packet.record_version)
        if packet.record_version > 0 and member.record_told > self._records.version(sender):
            self._wishes.want(sender, sender)
        match packet.body:
            case Ping() as ping:
                self._prober.answer_ping(member, ping, source, incarnation=self._presence.incarnation)
            case PingRequest() as request:
                self._prober.probe_for(now, sender, request)
            case Ack(sequence=sequence):
                self._prober.acked(now, sender, sequence)
            case Nack(sequence=sequence):
                self._prober.nacked(sender, sequence)
            case Rumour():
                pass
        self._plan_gossip(now)

    def tick(self, now: float) -> None:
        self._advance(now)
        self._runs = True  # what came before the first tick was waiting to be run, not standing still
        wall_ms = self._wall_ms(now)
        self._prober.tick(now, wall_ms=wall_ms)
        self._judgement.declare_due(now, wall_ms=wall_ms)
        if self._presence.standing is Standing.AWAY and self._presence.until_ms <= wall_ms:
            self._tell(now, self._presence.stand(Standing.HERE))
        signed = self._records.issue(now)
        if signed is not None:
            self._dissemination.push(RecordAdvert(self._me, signed.boot_counter, signed.version))
            self._outbox.events.append(RecordChanged(self._me, signed.version))
        if now >= self._push_pull_at:
            self._push_pull_at = now + self._profile.push_pull_interval_s
            for member in self._members.sample(1, states=HELPING):
                self._wishes.want_all(member.node_id)
        if now >= self._gossip_at:
            self._spread(now)
        self._plan_gossip(now)

    # Steps.

    def _advance(self, now: float) -> None:
        """Take note of the time. A timer that is much too late means that this node stood still, not the others.

        Answers may lie unread meanwhile, so rounds and suspicions get their time back, and this node trusts itself
        less (fault P3).
        """
        late_s = now - max(self.next_deadline(), self._now)
        self._now = max(self._now, now)
        if late_s > self._profile.lag_s and self._runs:
            self._stood_still(now, late_s)

    def _stood_still(self, now: float, late_s: float) -> None:
        self._lags += 1
        self._awareness.note(1 + min(2, int(late_s)))
        self._prober.postpone(late_s)
        self._judgement.postpone(late_s)
        for member in self._members:
            if member.state is MemberState.UNKNOWN:
                member.since += late_s
        self._push_pull_at = min(self._push_pull_at, now)

    def _hear(self, now: float, statement: Statement, *, tell: bool = True) -> None:
        """Apply a statement; a new suspicion of another's is looked into."""
        result = self._judgement.apply(now, statement, wall_ms=self._wall_ms(now), tell=tell)
        if result is Applied.NEWER and isinstance(statement, Suspect):
            member = self._members.get(statement.claim.body.node_id)
            if member is not None:
                self._prober.check_suspect(now, member)

    def _hear_of_record(self, sender: NodeId, advert: RecordAdvert) -> None:
        """Whoever tells of a record has it."""
        version = (advert.boot_counter, advert.version)
        mine = advert.node_id == self._me
        held = self._records.own_version if mine else self._records.version(advert.node_id)
        if self._knowledge.knows(advert.node_id) and version > held:
            self._wishes.want(sender, advert.node_id)

    def _merge(self, now: float, facts: MemberFacts, *, news: bool) -> None:
        """Take what a push-pull brought.

        Args:
            news: It was fetched because somebody told of it, so it is worth telling on; what a newcomer learns
                wholesale is known to all others already, unless it changes what this node thought.
        """
        statement, signed = facts.statement, facts.record
        member = self._members.get(facts.node_id)
        key = self._members.my_key if facts.node_id == self._me else b"" if member is None else member.public_key
        if statement is not None and subject_of(statement) == facts.node_id:
            known = member is not None and member.statement is not None
            self._hear(now, statement, tell=news or known)
        if signed is None or signed.node_id != facts.node_id or not key:
            return
        known = self._records.get(facts.node_id) is not None
        if self._records.accept(now, signed, key):
            self._outbox.events.append(RecordChanged(facts.node_id, signed.version))
            if news or known:
                self._dissemination.push(RecordAdvert(signed.node_id, signed.boot_counter, signed.version))

    def _tell(self, now: float, claim: Claim) -> None:
        """Spread a new claim of this node, at once: it may be the last thing it does."""
        self._dissemination.push(claim)
        self._gossip_at = now

    def _plan_gossip(self, now: float) -> None:
        """News goes out soon, a little jittered so that what comes together travels together."""
        if len(self._dissemination) == 0:
            self._gossip_at = inf
        elif self._gossip_at == inf:
            self._gossip_at = now + self._rng.random() * self._profile.gossip_interval_s / 4

    def _spread(self, now: float) -> None:
        self._gossip_at = now + self._profile.gossip_interval_s
        for member in self._members.sample(self._profile.gossip_fanout, states=HEARING):
            if len(self._dissemination) == 0:
                return
            self._postman.send(member, Rumour())

    def _wall_ms(self, now: float) -> int:
        return self._wall_offset_ms + round(now * 1000)
