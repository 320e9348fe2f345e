"""One round: who may end it, who counts, and what it proves."""

from __future__ import annotations

from gossip.messages import StreamOutcome
from gossip.probe import Probe, Verdict
from tests.unit.gossip.network import id_of


def a_probe() -> Probe:
    return Probe(id_of("t"), 7, started=10.0, direct_until=10.5, round_until=11.0, regular=True)


def asked_probe() -> Probe:
    probe = a_probe()
    probe.ask((id_of("b"), id_of("c"), id_of("d")))
    return probe


def test_helpers_are_wanted_after_the_direct_time_and_once() -> None:
    probe = a_probe()
    assert not probe.wants_helpers(10.4)
    assert probe.wants_helpers(10.5)
    probe.ask((id_of("b"),))
    assert not probe.wants_helpers(10.6)
    assert probe.next_deadline() == 11.0


def test_only_the_target_and_the_helpers_asked_can_ack() -> None:
    probe = asked_probe()
    assert [probe.accepts_ack(id_of(name)) for name in "tbcdx"] == [True, True, True, True, False]


def test_each_helper_asked_counts_one_nack_and_others_none() -> None:
    probe = asked_probe()
    for name in "bbbxt":
        probe.nack(id_of(name))
    assert probe.health_change() == 2
    assert probe.evidence(11.0).nacks == 1


def test_without_anyone_to_ask_a_failure_is_one_sign_of_bad_health() -> None:
    probe = a_probe()
    probe.ask(())
    assert probe.health_change() == 1


def test_a_link_that_did_not_answer_by_the_end_counts_as_silent() -> None:
    probe = asked_probe()
    assert probe.verdict() is Verdict.FAILED
    assert probe.evidence(11.0).stream is StreamOutcome.FAILED
    probe.stream_result(True)
    assert probe.verdict() is Verdict.BY_STREAM


def test_evidence_reads_as_a_sentence() -> None:
    probe = asked_probe()
    probe.nack(id_of("b"))
    told = "3 helpers asked: 1 heard nothing either and 2 did not answer us"
    assert str(probe.evidence(11.0)) == f"no ack in 1000 ms, {told}, link silent too"


def test_standing_still_gives_the_round_its_time_back() -> None:
    probe = a_probe()
    probe.postpone(3.0)
    assert not probe.wants_helpers(13.4)
    assert probe.over(14.0) and not probe.over(13.9)
