"""Several machines together: deaths are found, the living are left in peace, halves meet again."""

from __future__ import annotations

import pytest

from gossip.events import MemberDown, MemberLeft
from gossip.members import MemberState
from tests.unit.gossip.network import WALL_START_MS, Network, a_record, id_of

SEEDS = range(1, 9)


def settled(names: str = "abcde", **options: object) -> Network:
    network = Network(names, **options)  # type: ignore[arg-type]
    network.run_until(network.all_alive, within=10)
    network.run(15)
    return network


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_that_start_together_know_each_other_within_two_seconds(seed: int) -> None:
    network = Network("abcde", seed=seed)
    assert network.run_until(network.all_alive, within=10) < 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_silent_node_of_five_is_down_everywhere_within_six_seconds(seed: int) -> None:
    network = settled(seed=seed)
    network.kill("c")
    took = network.run_until(lambda: network.all_see("c", MemberState.DOWN), within=20)
    assert 1.5 < took < 6


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_whose_links_closed_is_down_everywhere_within_four_seconds(seed: int) -> None:
    network = settled(seed=seed)
    network.kill("c", links_close=True)
    took = network.run_until(lambda: network.all_see("c", MemberState.DOWN), within=20)
    assert 1.5 < took < 4


def test_the_other_of_two_is_found_dead_too_without_waiting_for_confirmations() -> None:
    network = settled("ab")
    network.kill("b")
    assert network.run_until(lambda: network.all_see("b", MemberState.DOWN), within=10) < 4.5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_paused_observer_accuses_nobody(seed: int) -> None:
    network = settled(seed=seed)
    network.pause("a", 12)
    network.run(60)
    for observer in "abcde":
        downs = [event for _, event in network.events_of(observer, MemberDown)]
        assert all(isinstance(event, MemberDown) and event.node_id == id_of("a") for event in downs)
    assert network.all_alive()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_short_pause_kills_nobody(seed: int) -> None:
    network = settled(seed=seed)
    network.pause("a", 1.2)
    network.run(20)
    assert not any(network.events_of(observer, MemberDown) for observer in "abcde")
    assert network.all_alive()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fifth_of_all_datagrams_lost_kills_nobody(seed: int) -> None:
    network = settled(seed=seed, loss=0.2)
    network.run(120)
    assert not any(network.events_of(observer, MemberDown) for observer in "abcde")


def test_without_any_datagrams_links_keep_the_living_alive() -> None:
    network = settled()
    network.datagrams = False
    network.run(60)
    assert not any(network.events_of(observer, MemberDown) for observer in "abcde")
    assert any(note.kind == "datagrams-lost" for _, note in network.nodes["a"].notes)


@pytest.mark.parametrize("seed", SEEDS)
def test_halves_that_were_cut_apart_agree_within_five_seconds_of_healing(seed: int) -> None:
    network = settled(seed=seed)
    network.cut("abc", "de")
    network.run_until(lambda: network.all_see("d", MemberState.DOWN, observers="abc"), within=30)
    network.run(30)
    assert network.all_see("a", MemberState.DOWN, observers="de")
    assert network.all_see("e", MemberState.ALIVE, observers="d")
    network.heal()
    assert network.run_until(network.all_alive, within=30) < 5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pair_that_is_cut_off_from_each_other_alone_stays_alive(seed: int) -> None:
    network = settled(seed=seed)
    network.cut("a", "b")
    network.run(60)
    assert not any(network.events_of(observer, MemberDown) for observer in "abcde")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_member_that_restarts_is_alive_again_everywhere(seed: int) -> None:
    network = settled(seed=seed)
    network.kill("c")
    network.run_until(lambda: network.all_see("c", MemberState.DOWN), within=20)
    died_at = network.nodes["a"].swim.view()[id_of("c")].incarnation
    network.start("c")
    network.run_until(network.all_alive, within=5)
    assert network.nodes["a"].swim.view()[id_of("c")].incarnation > died_at


def test_a_member_with_an_emptied_disk_comes_back_above_its_forgotten_life() -> None:
    network = Network("abcde")
    network.start("c", boot=9)
    network.run_until(network.all_alive, within=10)
    network.nodes["c"].swim.publish(network.now, a_record("c"))
    network.run(5)
    network.kill("c")
    network.run_until(lambda: network.all_see("c", MemberState.DOWN), within=20)
    network.start("c", boot=1)
    network.run_until(network.all_alive, within=15)
    network.nodes["c"].swim.publish(network.now, a_record("c", sandbox="again"))
    network.run(5)
    record = network.nodes["a"].swim.view()[id_of("c")].record
    assert record is not None and record.sandbox == "again"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_before_its_death_was_known_is_no_death(seed: int) -> None:
    network = settled(seed=seed)
    network.kill("c", links_close=True)
    network.run(1)
    network.start("c")
    network.run(20)
    assert network.all_alive()
    assert not any(network.events_of(observer, MemberDown) for observer in "abde")


def test_a_node_that_leaves_is_left_and_never_suspected() -> None:
    network = settled()
    network.nodes["c"].swim.leave(network.now)
    network.run_until(lambda: network.all_see("c", MemberState.LEFT), within=2)
    network.run_until(lambda: network.nodes["c"].swim.claim_is_told, within=5)
    network.kill("c", links_close=True)
    network.run(30)
    assert network.all_see("c", MemberState.LEFT)
    assert all(network.events_of(observer, MemberLeft) for observer in "abde")


def test_a_planned_absence_raises_no_alarm_until_it_is_over() -> None:
    network = settled()
    until_ms = WALL_START_MS + round((network.now + 60) * 1000)
    network.nodes["c"].swim.announce_away(network.now, until_ms)
    network.run_until(lambda: network.all_see("c", MemberState.AWAY), within=2)
    network.kill("c", links_close=True)
    network.run(50)
    assert network.all_see("c", MemberState.AWAY)
    network.run_until(lambda: network.all_see("c", MemberState.DOWN), within=40)


def test_who_leaves_alone_has_told_everybody() -> None:
    network = Network("a")
    network.nodes["a"].swim.leave(network.now)
    assert network.nodes["a"].swim.claim_is_told


def test_who_comes_back_from_an_absence_says_so() -> None:
    network = settled()
    until_ms = WALL_START_MS + round((network.now + 10) * 1000)
    network.nodes["c"].swim.announce_away(network.now, until_ms)
    network.run_until(lambda: network.all_see("c", MemberState.AWAY), within=2)
    network.run(12)
    assert network.all_see("c", MemberState.ALIVE)


def test_a_member_never_heard_is_down_for_us_after_a_while() -> None:
    network = Network("abc")
    network.kill("c")
    network.run(5)
    assert network.all_see("c", MemberState.UNKNOWN)
    network.run(10)
    assert network.all_see("c", MemberState.DOWN)


def test_a_removed_member_is_forgotten_and_not_believed() -> None:
    network = settled()
    del network.members[id_of("c")]
    for name in "abde":
        network.admit(network.nodes[name])
    network.run(10)
    assert all(id_of("c") not in network.nodes[name].swim.view() for name in "abde")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_record_is_everywhere_within_a_second(seed: int) -> None:
    network = settled(seed=seed)
    network.nodes["c"].swim.publish(network.now, a_record("c", sandbox="new"))

    def everywhere() -> bool:
        records = [network.nodes[name].swim.view()[id_of("c")].record for name in "abde"]
        return all(record is not None and record.sandbox == "new" for record in records)

    assert network.run_until(everywhere, within=10) < 1


def test_a_quiet_mesh_sends_a_constant_number_of_datagrams_a_node() -> None:
    rates = []
    for names in ("abcde", "abcdefghijklmnopqrst"):
        network = settled(names)
        before = network.sent
        network.run(30)
        rates.append((network.sent - before) / 30 / len(names))
    small, large = rates
    assert large < small * 1.5


def test_the_same_seed_gives_the_same_trace() -> None:
    def trace() -> list[object]:
        network = settled(seed=7, loss=0.1)
        network.kill("b")
        network.run(20)
        return [(name, node.events, node.notes) for name, node in network.nodes.items()] + [network.sent]

    assert trace() == trace()
