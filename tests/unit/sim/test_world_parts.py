"""The simulator's clocks, network and platter do what they claim, and the same each time."""

from __future__ import annotations

import random
from math import inf

import pytest

from tests.sim.clock import Agenda, NodeClock
from tests.sim.network import CALM, Network, NetworkOptions
from tests.sim.platter import SECTOR_BYTES, Inode, Platter
from tests.sim.trace import Trace


def test_equal_times_keep_the_order_of_asking() -> None:
    agenda = Agenda()
    seen: list[str] = []
    agenda.at(2.0, seen.append, "late")
    agenda.at(1.0, seen.append, "a")
    agenda.at(1.0, seen.append, "b")
    agenda.run_until(1.5)
    assert (seen, agenda.now) == (["a", "b"], 1.5)
    agenda.after(0.0, seen.append, "now")
    assert agenda.run_until(9.0, lambda: "late" in seen)
    assert (seen, agenda.now) == (["a", "b", "now", "late"], 2.0)


def test_a_drifting_clock_turns_its_deadlines_into_true_time() -> None:
    agenda = Agenda()
    clock = NodeClock(agenda, rate=1.1, started=100.0)
    agenda.run_until(10.0)
    assert clock.monotonic() == pytest.approx(111.0)
    assert clock.true_time_of(122.0) == pytest.approx(20.0)
    clock.set_rate(0.5)
    assert clock.monotonic() == pytest.approx(111.0)
    assert clock.true_time_of(112.0) == pytest.approx(12.0)


def test_suspend_stops_the_monotonic_clock_and_not_the_wall() -> None:
    agenda = Agenda()
    clock = NodeClock(agenda)
    clock.suspend()
    wall = clock.wall_ms()
    agenda.run_until(30.0)
    assert (clock.monotonic(), clock.true_time_of(1.0)) == (0.0, inf)
    assert clock.wall_ms() - wall == 30_000
    clock.resume()
    assert clock.true_time_of(1.0) == pytest.approx(31.0)
    clock.step_wall(-3600.0)
    assert clock.wall_ms() - wall == 30_000 - 3_600_000


class Mailbox:
    def __init__(self, options: NetworkOptions, seed: str = "s") -> None:
        self.agenda = Agenda()
        self.got: list[tuple[float, str, str, object]] = []
        self.closed: list[tuple[str, str]] = []
        self.network = Network(
            self.agenda,
            random.Random(seed),
            options,
            lambda source, target, message: self.got.append((self.agenda.now, source, target, message)),
            lambda node, peer: self.closed.append((node, peer)),
        )


def test_a_one_way_cut_stops_one_way_and_overlapping_cuts_add_up() -> None:
    box = Mailbox(CALM)
    box.network.cut("a", "b")
    box.network.cut("a", "b")
    box.network.send("a", "b", 1)
    box.network.send("b", "a", 2)
    box.agenda.run_until(1.0)
    assert [message for *_, message in box.got] == [2]
    box.network.mend("a", "b")
    assert not box.network.is_open("a", "b")
    box.network.mend("a", "b")
    box.network.send("a", "b", 3)
    box.agenda.run_until(2.0)
    assert [message for *_, message in box.got] == [2, 3]


def test_a_cut_also_stops_what_is_under_way() -> None:
    box = Mailbox(NetworkOptions(0.0, 0.0, 0.5, 0.0, 0.0, 0.0))
    box.network.send("a", "b", 1)
    box.network.cut("a", "b")
    box.agenda.run_until(1.0)
    assert (box.got, box.network.counts.cut) == ([], 1)


def test_loss_replay_and_reordering_happen_as_often_as_the_options_say() -> None:
    box = Mailbox(NetworkOptions(0.3, 0.5, 0.01, 0.05, 0.01, 1.0))
    for number in range(2000):
        box.network.send("a", "b", number)
    box.agenda.run_until(60.0)
    assert 500 < box.network.counts.lost < 700
    assert 600 < box.network.counts.repeated < 800
    order = [message for *_, message in box.got]
    assert order != sorted(order, key=str) and order != list(range(2000))
    assert len(order) == 2000 - box.network.counts.lost + box.network.counts.repeated


def test_the_same_seed_gives_the_same_deliveries() -> None:
    runs = []
    for _ in range(2):
        box = Mailbox(NetworkOptions(0.2, 0.2, 0.01, 0.05, 0.02, 1.0), "7")
        for number in range(200):
            box.network.send("a", "b", number)
        box.agenda.run_until(60.0)
        runs.append(box.got)
    assert runs[0] == runs[1]


def test_link_ends_are_told_of_a_killed_process_where_the_path_is_open() -> None:
    box = Mailbox(CALM)
    box.network.cut("a", "b")
    box.network.close_links("a", ["a", "b", "c"])
    box.network.reset("b", "c")
    box.agenda.run_until(1.0)
    assert sorted(box.closed) == [("b", "c"), ("c", "a"), ("c", "b")]


def test_in_the_calm_only_the_core_speaks_and_nothing_is_lost() -> None:
    box = Mailbox(NetworkOptions(1.0, 0.0, 0.01, 0.05, 0.0, 0.0))
    box.network.cut("a", "b")
    box.network.calm(frozenset({"a", "b"}))
    box.network.send("a", "b", 1)
    box.network.send("a", "c", 2)
    box.network.send("c", "b", 3)
    box.agenda.run_until(1.0)
    assert [message for *_, message in box.got] == [1]


def test_synced_bytes_survive_power_loss_and_unsynced_ones_may_be_torn() -> None:
    survived = set()
    for seed in range(40):
        inode = Inode()
        inode.write(0, b"S" * SECTOR_BYTES)
        inode.sync()
        inode.write(SECTOR_BYTES, b"u" * SECTOR_BYTES * 2)
        inode.power_off(random.Random(seed), 0.9)
        assert inode.read(0, SECTOR_BYTES) == b"S" * SECTOR_BYTES
        survived.add(inode.read(SECTOR_BYTES, SECTOR_BYTES * 2).count(b"u") // SECTOR_BYTES)
    assert survived == {0, 1, 2}


def test_a_later_write_may_survive_an_earlier_one() -> None:
    def after(seed: int) -> tuple[bool, bool]:
        inode = Inode()
        inode.extend(4 * SECTOR_BYTES)
        inode.sync()
        inode.write(0, b"1")
        inode.write(SECTOR_BYTES, b"2")
        inode.power_off(random.Random(seed), 0.5)
        return inode.read(0, 1) == b"1", inode.read(SECTOR_BYTES, 1) == b"2"

    assert {after(seed) for seed in range(40)} == {(False, False), (False, True), (True, False), (True, True)}


def test_a_failed_fsync_forgets_writes_for_good() -> None:
    lost = 0
    for seed in range(20):
        inode = Inode()
        inode.write(0, b"x")
        inode.forget_pending(random.Random(seed))
        assert inode.read(0, 1) == b"x"
        inode.sync()
        inode.power_off(random.Random(seed), 1.0)
        lost += inode.read(0, 1) != b"x"
    assert 0 < lost < 20


def test_names_survive_power_loss_only_once_the_folder_was_synced() -> None:
    outcomes = set()
    for seed in range(20):
        platter = Platter()
        platter.link("old", Inode())
        platter.sync_names()
        platter.link("new", Inode())
        platter.link("old", None)
        platter.power_off(random.Random(seed), 1.0)
        outcomes.add(tuple(sorted(platter.names)))
    assert outcomes == {("old",), ("new", "old"), ("new",)}


def test_reserved_zeros_read_as_zeros_and_take_room_on_the_disk() -> None:
    platter = Platter()
    inode = Inode()
    platter.link("segment", inode)
    inode.extend(1 << 20)
    inode.write(10, b"abc")
    assert (inode.read(8, 6), len(inode.cached)) == (b"\0\0abc\0", 13)
    assert inode.read((1 << 20) - 2, 10) == b"\0\0"
    assert platter.used_bytes() == 1 << 20


def test_a_copied_home_shares_nothing_with_the_original() -> None:
    platter = Platter()
    inode = Inode()
    inode.write(0, b"a")
    platter.link("f", inode)
    twin = platter.copy()
    inode.write(0, b"b")
    assert twin.names["f"].read(0, 1) == b"a"
    inode.flip(0, 0)
    assert (inode.read(0, 1), twin.names["f"].read(0, 1)) == (b"c", b"a")


def test_traces_that_differ_have_other_digests() -> None:
    one, other = Trace(), Trace()
    one.line(1.0, "n1", "leader", 3, 7, "x")
    other.line(1.0, "n1", "leader", 3, 8, "x")
    assert one.text() == "    1.0000 n1  leader          3      7  x\n"
    assert one.digest() != other.digest()
