"""The page of measurements: sections are replaced one by one, in a fixed order, and failures are written down."""

from __future__ import annotations

from bench.claims import CLAIMS
from bench.soak import HEAD, Part, merged, parts, take

ORDER = ("first", "second", "third")


def section(name: str, text: str) -> str:
    return f"## {name}\n\n{text}\n\n```text\n# not a heading\n```\n\n"


def test_a_section_replaces_the_one_of_its_name_and_no_other() -> None:
    page = merged("", {name: section(name, "old") for name in ("third", "first")}, ORDER)
    page = merged(page, {"first": section("first", "new")}, ORDER)
    assert page == HEAD + "\n" + section("first", "new") + section("third", "old").rstrip("\n") + "\n"


def test_a_section_of_a_part_that_is_no_more_goes() -> None:
    page = merged("", {"first": section("first", "x"), "second": section("second", "y")}, ORDER)
    assert "## second" not in merged(page, {}, ("first",))


def test_every_claim_and_every_run_of_the_simulator_is_a_part() -> None:
    names = [part.name for part in parts(smoke=False)]
    assert names == ["sim.run", "sim.hunt", "sim.effects", "sim.branches", *CLAIMS]
    assert [part.name for part in parts(smoke=True)] == names


def test_a_part_that_fails_is_written_down_as_it_ended() -> None:
    text, status = take(Part("broken", ("-c", "print('half'); raise SystemExit(3)"), "Breaks."))
    assert status == 3
    assert "It ended with status 3." in text
    assert "half" in text
