"""One machine in dialogue at fixed times: what goes in, what comes out."""

from __future__ import annotations

import random
from typing import TypeVar

import pytest

from gossip.events import GossipEvent, MemberAlive, MemberDown, MemberSuspected, OwnClaimContested
from gossip.members import MemberState
from gossip.messages import (
    GOSSIP,
    Ack,
    Body,
    Claim,
    Dead,
    MemberFacts,
    Nack,
    Packet,
    Ping,
    PingRequest,
    PushFacts,
    PushPull,
    Rumour,
    Standing,
    Suspect,
    Update,
    decode_packet,
    first_incarnation,
)
from gossip.outbox import Exchange, Output
from gossip.profiles import LAN
from gossip.swim import Swim
from mesh.names import NodeId
from tests.unit.gossip.network import id_of, public_key, sign_as, verify
from tests.unit.gossip.statements import a_claim, a_death, a_suspect

BodyT = TypeVar("BodyT")
START = first_incarnation(1)


class Dialogue:
    """Node a, with b, c, d, e in the ledger; `says` feeds it a packet, `at` lets time pass."""

    def __init__(self, names: str = "abcde", *, alive: str = "bcde", boot: int = 1) -> None:
        self.now = 0.0
        self.swim = Swim(
            id_of("a"), LAN, address="a:1", boot_counter=boot, sign=sign_as("a"), verify=verify,
            rng=random.Random(3), now=0.0,
        )  # fmt: skip
        self.swim.set_members(0.0, {id_of(name): public_key(name) for name in names})
        for name in names[1:]:
            self.swim.set_addresses(0.0, id_of(name), (f"{name}:1",))
        self.sent: list[tuple[NodeId, Packet]] = []
        self.events: list[GossipEvent] = []
        self.output = Output()
        self.swim.tick(0.0)
        for name in alive:
            self.says(name, Rumour(), a_claim(name, START))
        self.sent.clear()
        self.events.clear()

    def says(self, name: str, body: Body, *updates: Update, incarnation: int = 0, record: int = 0) -> None:
        packet = Packet(incarnation or START, 1, record, body, updates)
        self.swim.receive(self.now, id_of(name), packet, source=f"{name}:1")
        self.drain()

    def at(self, now: float) -> None:
        """Fire every timer until then, each at its time."""
        while self.swim.next_deadline() <= now:
            self.now = max(self.now, self.swim.next_deadline())
            self.swim.tick(self.now)
            self.drain()
        self.now = now

    def drain(self) -> None:
        self.output = self.swim.take_output()
        self.sent += [(send.to, decode_packet(send.payload)) for send in self.output.sends]
        self.events += self.output.events

    def sent_of(self, kind: type[BodyT], to: str | None = None) -> list[tuple[NodeId, BodyT]]:
        return [
            (target, packet.body)
            for target, packet in self.sent
            if isinstance(packet.body, kind) and (to is None or target == id_of(to))
        ]

    def told_of(self, kind: type[BodyT]) -> list[BodyT]:
        return [update for _, packet in self.sent for update in packet.updates if isinstance(update, kind)]

    def await_ping(self) -> tuple[NodeId, int]:
        """Let time pass until a regular ping leaves."""
        self.sent.clear()
        while True:
            for target, ping in self.sent_of(Ping):
                return target, ping.sequence
            self.at(self.swim.next_deadline())

    def state(self, name: str) -> MemberState:
        return self.swim.state_of(id_of(name))


def name_of(node_id: NodeId) -> str:
    return next(name for name in "abcdef" if id_of(name) == node_id)


def test_a_ping_is_answered_and_one_for_another_node_is_not() -> None:
    talk = Dialogue()
    talk.says("b", Ping(7, id_of("a"), START))
    talk.says("b", Ping(8, id_of("c"), START))
    assert talk.sent_of(Ack) == [(id_of("b"), Ack(7))]


def test_who_does_not_know_our_claim_gets_it_with_the_answer() -> None:
    talk = Dialogue()
    for _ in range(40):  # tell the claim so often that it is no longer news
        talk.says("c", Ping(1, id_of("a"), START))
    talk.sent.clear()
    talk.says("b", Ping(7, id_of("a"), 0))
    talk.says("c", Ping(8, id_of("a"), START))
    first, second = talk.sent
    assert any(isinstance(update, Claim) and update.body.node_id == id_of("a") for update in first[1].updates)
    assert second[1].updates == ()


def test_a_target_that_acks_in_time_is_left_in_peace() -> None:
    talk = Dialogue()
    target, sequence = talk.await_ping()
    talk.says(name_of(target), Ack(sequence))
    talk.at(talk.now + 2.9)
    assert not talk.sent_of(PingRequest)
    assert not talk.events


def test_silence_asks_three_helpers_and_the_link_and_then_accuses_aloud() -> None:
    talk = Dialogue()
    talk.at(0.01)
    target, sequence = talk.await_ping()
    multiplier = talk.swim.statistics().awareness + 1
    started = talk.now
    talk.at(started + LAN.probe_timeout_s * multiplier)
    asked = talk.sent_of(PingRequest)
    assert len(asked) == 3
    assert {request.target for _, request in asked} == {target}
    assert target not in {helper for helper, _ in asked}
    assert [(probe.target, probe.sequence) for probe in talk.output.stream_probes] == [(target, sequence)]
    for helper, _ in asked:
        talk.says(name_of(helper), Nack(sequence))
    talk.at(started + LAN.probe_interval_s * multiplier)
    assert talk.state(name_of(target)) is MemberState.SUSPECT
    suspected = [event for event in talk.events if isinstance(event, MemberSuspected)]
    assert suspected == [MemberSuspected(target, START, id_of("a"))]
    talk.at(talk.now + 0.3)
    assert any(update.accuser == id_of("a") for update in talk.told_of(Suspect))


def test_an_ack_through_a_helper_saves_the_target() -> None:
    talk = Dialogue()
    target, sequence = talk.await_ping()
    started, multiplier = talk.now, talk.swim.statistics().awareness + 1
    talk.at(started + LAN.probe_timeout_s * multiplier)
    helper, _ = talk.sent_of(PingRequest)[0]
    talk.says(name_of(helper), Ack(sequence))
    talk.at(started + LAN.probe_interval_s * multiplier + 0.1)
    assert talk.state(name_of(target)) is MemberState.ALIVE


def test_an_ack_by_somebody_who_was_not_asked_saves_nobody() -> None:
    talk = Dialogue()
    target, sequence = talk.await_ping()
    started, multiplier = talk.now, talk.swim.statistics().awareness + 1
    other = next(name for name in "bcde" if id_of(name) != target)
    talk.says(other, Ack(sequence))
    talk.at(started + LAN.probe_interval_s * multiplier + 0.1)
    assert talk.state(name_of(target)) is MemberState.SUSPECT


def test_the_link_saves_a_target_whose_datagrams_are_lost_and_it_is_noted() -> None:
    talk = Dialogue()
    target, sequence = talk.await_ping()
    started, multiplier = talk.now, talk.swim.statistics().awareness + 1
    talk.at(started + LAN.probe_timeout_s * multiplier)
    talk.swim.receive_stream_result(talk.now, sequence, alive=True)
    notes = []
    end = started + LAN.probe_interval_s * multiplier
    while talk.swim.next_deadline() <= end:
        talk.at(talk.swim.next_deadline())
        notes += talk.output.notes
    assert talk.state(name_of(target)) is MemberState.ALIVE
    assert [(note.kind, note.node_id) for note in notes] == [("datagrams-lost", target)]


def test_helpers_that_send_no_nack_make_us_doubt_ourselves() -> None:
    with_nacks, without = Dialogue(), Dialogue()
    for talk, nacks in ((with_nacks, True), (without, False)):
        _, sequence = talk.await_ping()
        started, multiplier = talk.now, talk.swim.statistics().awareness + 1
        talk.at(started + LAN.probe_timeout_s * multiplier)
        if nacks:
            for helper, _ in talk.sent_of(PingRequest):
                talk.says(name_of(helper), Nack(sequence))
        talk.at(started + LAN.probe_interval_s * multiplier)
    assert with_nacks.swim.statistics().awareness == LAN.awareness_start
    assert without.swim.statistics().awareness == LAN.awareness_start + 3


def test_health_improves_with_every_ack() -> None:
    talk = Dialogue()
    for _ in range(LAN.awareness_start):
        target, sequence = talk.await_ping()
        talk.says(name_of(target), Ack(sequence))
    assert talk.swim.statistics().awareness == 0


def test_a_helper_passes_the_ack_on() -> None:
    talk = Dialogue()
    talk.says("b", PingRequest(77, id_of("c")))
    ((_, ping),) = talk.sent_of(Ping, to="c")
    talk.says("c", Ack(ping.sequence))
    assert talk.sent_of(Ack, to="b") == [(id_of("b"), Ack(77))]


def test_a_helper_tells_of_silence_once_and_still_passes_a_late_ack_on() -> None:
    talk = Dialogue()
    talk.says("b", PingRequest(77, id_of("c")))
    ((_, ping),) = talk.sent_of(Ping, to="c")
    talk.at(talk.now + LAN.probe_timeout_s)
    assert talk.sent_of(Nack, to="b") == [(id_of("b"), Nack(77))]
    talk.says("c", Ack(ping.sequence))
    assert talk.sent_of(Ack, to="b") == [(id_of("b"), Ack(77))]


def test_a_helper_passes_no_ack_on_that_another_sent() -> None:
    talk = Dialogue()
    talk.says("b", PingRequest(77, id_of("c")))
    ((_, ping),) = talk.sent_of(Ping, to="c")
    talk.says("d", Ack(ping.sequence))
    assert not talk.sent_of(Ack, to="b")


def test_better_health_brings_the_next_round_forward() -> None:
    talk = Dialogue()
    target, sequence = talk.await_ping()
    started, multiplier = talk.now, talk.swim.statistics().awareness + 1
    talk.says(name_of(target), Ack(sequence))
    talk.await_ping()
    assert talk.now - started == pytest.approx(LAN.probe_interval_s * (multiplier - 1))


def test_a_member_that_was_never_heard_is_tried_at_each_of_its_addresses() -> None:
    talk = Dialogue(names="ab", alive="")
    talk.swim.set_addresses(talk.now, id_of("b"), ("one:1", "two:2"))
    tried = set()
    while talk.now < 4 * LAN.lost_probe_interval_s:
        talk.at(talk.swim.next_deadline())
        tried |= {send.address for send in talk.output.sends}
    assert tried >= {"one:1", "two:2"}


def test_of_a_removed_member_nothing_is_left() -> None:
    talk = Dialogue()
    talk.says("c", Rumour(), a_suspect("b", START, "c"))
    talk.says("b", Rumour(), incarnation=START + 5)
    talk.swim.set_members(talk.now, {id_of(name): public_key(name) for name in "acde"})
    talk.sent.clear()
    talk.at(talk.now + 30)
    assert id_of("b") not in talk.swim.view()
    assert not [update for update in talk.told_of(Suspect) if update.claim.body.node_id == id_of("b")]
    assert id_of("b") not in {target for target, _ in talk.sent}


def test_what_a_push_pull_changes_is_told_on_and_what_it_adds_is_not() -> None:
    for known, told in ((True, 1), (False, 0)):
        talk = Dialogue(alive="bcde" if known else "cde")
        talk.at(3.0)
        talk.sent.clear()
        talk.swim.answer(talk.now, PushPull(PushFacts((MemberFacts(id_of("b"), a_claim("b", START + 3), None),))))
        talk.at(talk.now + 0.5)
        claims = {claim.body.incarnation for claim in talk.told_of(Claim) if claim.body.node_id == id_of("b")}
        assert len(claims) == told


def test_an_accusation_is_refuted_with_a_higher_incarnation() -> None:
    talk = Dialogue()
    talk.says("b", Rumour(), a_suspect("a", START, "c", address="a:1"))
    assert talk.swim.incarnation == START + 1
    talk.at(talk.now + 0.3)
    told = [claim for claim in talk.told_of(Claim) if claim.body.node_id == id_of("a")]
    assert told[0].body.incarnation == START + 1
    assert verify(public_key("a"), b"freecloud-claim-1", _signed(told[0]), told[0].signature)


def test_the_refutation_of_a_ping_that_accuses_rides_on_its_ack() -> None:
    talk = Dialogue()
    talk.says("b", Ping(5, id_of("a"), START), a_suspect("a", START, "c", address="a:1"))
    ((_, packet),) = [(to, packet) for to, packet in talk.sent if isinstance(packet.body, Ack)]
    first = packet.updates[0]
    assert isinstance(first, Claim) and first.body.incarnation == START + 1


def test_an_accusation_at_an_incarnation_we_never_signed_drives_nothing_up() -> None:
    talk = Dialogue()
    talk.says("b", Rumour(), a_suspect("a", START + 50, "c", signer="b"))
    assert talk.swim.incarnation == START


def test_an_old_accusation_is_answered_with_the_present_claim_again() -> None:
    talk = Dialogue()
    talk.says("b", Rumour(), a_suspect("a", START, "c", address="a:1"))
    talk.at(talk.now + 5)
    talk.sent.clear()
    talk.says("d", Ping(1, id_of("a"), START + 1), a_death("a", START, "c"))
    assert talk.swim.incarnation == START + 1
    assert any(claim.body.incarnation == START + 1 for claim in talk.told_of(Claim))


def test_a_claim_of_a_forgotten_life_is_topped_and_told() -> None:
    talk = Dialogue()
    talk.says("b", Rumour(), a_claim("a", first_incarnation(9)))
    assert talk.swim.incarnation == first_incarnation(9) + 1
    assert OwnClaimContested(first_incarnation(9)) in talk.events


@pytest.mark.parametrize("former", [a_suspect("a", START, "c", address="old:1"), a_claim("a", START, address="old:1")])
def test_what_is_said_of_a_forgotten_life_that_counted_as_far_is_topped(former: Suspect | Claim) -> None:
    """An emptied disk counts its starts anew: its first life claimed the same incarnation, at another address."""
    talk = Dialogue()
    talk.says("b", Rumour(), former)
    assert talk.swim.incarnation == START + 1


def test_a_restart_begins_above_everything_its_former_life_can_have_claimed() -> None:
    before, after = Dialogue(boot=4), Dialogue(boot=5)
    for _ in range(1000):
        before.swim.announce_away(0.0, 10**9)
    assert after.swim.incarnation > before.swim.incarnation


def test_independent_confirmations_bring_a_death_forward() -> None:
    died_at = []
    for accusers in ("c", "cde"):
        talk = Dialogue()
        for accuser in accusers * 3:
            talk.says(accuser, Rumour(), a_suspect("b", START, accuser))
        while talk.state("b") is not MemberState.DOWN:
            talk.at(talk.swim.next_deadline())
        died_at.append(talk.now)
    alone, confirmed = died_at
    assert confirmed == pytest.approx(LAN.suspicion_factor * LAN.probe_interval_s, abs=2.0)
    assert alone > confirmed + 1.0


def test_a_suspicion_of_another_is_looked_into_at_once_and_the_suspect_is_told_first() -> None:
    talk = Dialogue()
    talk.at(0.02)
    talk.sent.clear()
    suspicion = a_suspect("b", START, "c")
    talk.says("c", Rumour(), suspicion)
    pings = [packet for to, packet in talk.sent if to == id_of("b") and isinstance(packet.body, Ping)]
    assert len(pings) == 1
    assert pings[0].updates[0] == suspicion


def test_an_unanswered_suspicion_ends_in_a_death_that_is_told() -> None:
    talk = Dialogue(names="ab", alive="b")
    talk.at(30)
    assert talk.state("b") is MemberState.DOWN
    assert [type(event) for event in talk.events][:2] == [MemberSuspected, MemberDown]
    talk.sent.clear()
    talk.at(60)
    pings = [packet for to, packet in talk.sent if isinstance(packet.body, Ping)]
    assert pings, "the dead are probed for ever"
    assert any(isinstance(update, Dead) for update in pings[-1].updates)


def test_a_death_is_undone_only_by_a_newer_claim() -> None:
    talk = Dialogue()
    talk.says("c", Rumour(), a_death("b", START, "c"))
    talk.says("d", Rumour(), a_claim("b", START))
    assert talk.state("b") is MemberState.DOWN
    talk.says("d", Rumour(), a_claim("b", START + 1))
    assert talk.state("b") is MemberState.ALIVE
    assert MemberAlive(id_of("b"), START + 1) in talk.events


def test_a_closed_link_starts_a_short_round_at_once() -> None:
    talk = Dialogue()
    talk.at(0.02)
    talk.sent.clear()
    talk.swim.peer_link_closed(talk.now, id_of("d"))
    talk.drain()
    assert [target for target, _ in talk.sent_of(Ping)] == [id_of("d")]
    multiplier = talk.swim.statistics().awareness + 1
    talk.at(talk.now + LAN.urgent_round_s * multiplier)
    assert talk.state("d") is MemberState.SUSPECT


def test_a_send_that_failed_is_a_probe_that_failed() -> None:
    talk = Dialogue()
    target, _ = talk.await_ping()
    talk.swim.send_failed(talk.now, target)
    talk.at(talk.now)
    assert len(talk.sent_of(PingRequest)) == 3


def test_a_late_timer_means_that_we_stood_still_and_gives_everyone_time() -> None:
    talk = Dialogue()
    talk.says("c", Rumour(), a_suspect("b", START, "c"))
    before = talk.swim.statistics()
    talk.now = talk.swim.next_deadline() + 20.0
    talk.swim.tick(talk.now)
    talk.drain()
    after = talk.swim.statistics()
    assert (after.lags, after.awareness) == (before.lags + 1, before.awareness + 3)
    assert talk.state("b") is MemberState.SUSPECT
    talk.says("b", Rumour(), a_claim("b", START + 1))
    assert talk.state("b") is MemberState.ALIVE


def test_waking_from_a_suspend_gives_the_suspected_time_and_compares_with_somebody() -> None:
    talk = Dialogue()
    talk.swim.set_wall_clock(talk.now, 1_000_000)
    talk.says("c", Rumour(), a_suspect("b", START, "c"))
    before = talk.swim.statistics()
    talk.swim.set_wall_clock(talk.now, 1_000_000 + 3600_000)
    assert talk.swim.statistics().awareness > before.awareness
    talk.swim.tick(talk.now)
    talk.drain()
    assert [exchange.wanted for exchange in talk.output.exchanges] == [()]


def test_a_slewed_wall_clock_is_no_suspend() -> None:
    talk = Dialogue()
    talk.swim.set_wall_clock(talk.now, 1_000_000)
    lags = talk.swim.statistics().lags
    talk.swim.set_wall_clock(talk.now, 1_000_900)
    assert talk.swim.statistics().lags == lags


def test_a_newer_incarnation_in_a_header_has_the_claim_fetched() -> None:
    talk = Dialogue()
    talk.says("b", Rumour(), incarnation=START + 5)
    assert talk.output.exchanges == (Exchange(id_of("b"), (id_of("b"),)),)
    talk.says("b", Rumour(), incarnation=START + 5)
    assert talk.output.exchanges == (), "one conversation with a peer at a time"


def test_the_same_input_twice_changes_nothing_more() -> None:
    talk = Dialogue()
    suspicion = a_suspect("b", START, "c")
    talk.says("c", Rumour(), suspicion)
    seen = len(talk.events)
    talk.says("c", Rumour(), suspicion)
    talk.says("d", Rumour(), suspicion)
    assert len(talk.events) == seen


def test_packets_of_strangers_change_nothing() -> None:
    talk = Dialogue()
    before = talk.swim.view()
    talk.says("z", Ping(1, id_of("a"), 0), a_death("b", START, "z"))
    assert talk.swim.view() == before
    assert not talk.sent


def test_who_left_answers_still_and_refutes_no_more() -> None:
    talk = Dialogue()
    talk.swim.leave(talk.now)
    incarnation = talk.swim.incarnation
    talk.says("b", Ping(3, id_of("a"), START), a_suspect("a", incarnation, "c", standing=Standing.LEFT))
    assert talk.swim.incarnation == incarnation
    assert talk.sent_of(Ack) == [(id_of("b"), Ack(3))]


def test_every_message_survives_its_bytes() -> None:
    for update in (a_claim("b", 1), a_suspect("b", 1, "c"), a_death("b", 1, "c")):
        assert GOSSIP.decode(GOSSIP.encode(update)) == update


def _signed(claim: Claim) -> bytes:
    from gossip.messages import signed_bytes

    return signed_bytes(claim.body)
