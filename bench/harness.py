"""One frame for all claims: both sides in turn at the same priority, medians, ratios, and no figure without a basis.

A figure taken while others kept the machine busy is an upper bound. Where it meets its target all the same, the
claim stands; where it doesn't, nothing is decided, and the report says so instead of failing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import BUSY, Machine, Pressure, become_realtime, others_pressure, this_machine
from bench.samples import NotMeasuredError, is_scattered, median, ratio


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a figure, or why there is none."""

    name: str
    value: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One claim's number.

    Args:
        basis: What it is of: "median of 20".
        target: What was promised, in the same unit; None where the figure only informs.
        scattered: Its samples lie far apart.
        counted: It counts broken promises: that others kept the machine busy excuses none of them.
    """

    name: str
    value: float
    unit: str
    basis: str
    target: float | None = None
    peer: Peer | None = None
    scattered: bool = False
    counted: bool = False

    def beside(self) -> str:
        """The ratio to the peer, or to the target where there is no peer: never the number alone."""
        if self.peer is not None and self.peer.value is not None:
            times = ratio(self.value, self.peer.value)
            return f"{times:.2f} × {self.peer.name} ({number(self.peer.value)} {self.unit})"
        parts = []
        if self.target is not None:
            parts.append(f"{ratio(self.value, self.target):.2f} of the target")
        if self.peer is not None:
            parts.append(f"{self.peer.name} not measured: {self.peer.reason}")
        return "; ".join(parts)

    def verdict(self, busy: bool) -> str:
        if self.target is None:
            return "for information"
        if self.counted:
            return "met" if self.value < self.target else "missed"
        if self.value < self.target:
            return "met, on a busy machine" if busy else "met"
        return "undecided: the machine was too busy" if busy else "missed"


@dataclass(slots=True)
class Report:
    """All that one claim's run came to."""

    claim: str
    machine: Machine
    realtime: bool
    figures: list[Figure] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)
    pressure_before: float | None = None
    pressure_during: float | None = None
    pressure_after: float | None = None

    @property
    def busy(self) -> bool:
        """Others used the machine before or after (during, our own processes wait for each other as well)."""
        known = [share for share in (self.pressure_before, self.pressure_after) if share is not None]
        return not known or max(known) > BUSY

    @property
    def missed(self) -> bool:
        return any(figure.verdict(self.busy) == "missed" for figure in self.figures)

    def lines(self) -> list[str]:
        """The report as text; every figure on a line of its own."""
        lines = [f"{self.claim}: {self.machine.text()}"]
        for figure in self.figures:
            target = f", target < {number(figure.target)} {figure.unit}" if figure.target is not None else ""
            scattered = ", scattered" if figure.scattered else ""
            lines.append(
                f"  {figure.name}: {number(figure.value)} {figure.unit} ({figure.basis}{scattered}{target}), "
                f"{figure.beside()} - {figure.verdict(self.busy)}"
            )
        lines += [f"  not measured: {reason}" for reason in self.not_measured]
        lines.append(f"  {self.surroundings()}")
        return lines

    def surroundings(self) -> str:
        """Priority and pressure, in words."""
        pressures = (("before", self.pressure_before), ("during", self.pressure_during), ("after", self.pressure_after))
        parts = [f"{share:.0%} {when}" for when, share in pressures if share is not None]
        priority = "real-time priority" if self.realtime else "ordinary priority"
        if not parts:
            return f"{priority}; CPU pressure unknown: take the figures as upper bounds"
        busy = ": others kept the machine busy, the figures are upper bounds" if self.busy else ""
        return f"{priority}; CPU pressure {', '.join(parts)}{busy}"

    def document(self) -> dict[str, Any]:
        """For programs: the fields, and each figure's comparison and verdict in words."""
        told = asdict(self)
        for figure, fields in zip(self.figures, told["figures"], strict=True):
            fields["beside"] = figure.beside()
            fields["verdict"] = figure.verdict(self.busy)
        told["busy"] = self.busy
        told["surroundings"] = self.surroundings()
        return told


Measure = Callable[["Run"], None]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim and how it is measured.

    Args:
        smoke: How many samples show that it works.
        full: How many the claim is made with.
        realtime: Both sides may run at real-time priority. Not where apps run: a control group with a share of the
            processor takes no real-time tasks.
    """

    name: str
    text: str
    measure: Measure
    smoke: int
    full: int
    realtime: bool = True


@dataclass(slots=True)
class Run:
    """What a measuring function gets: its size, and where its figures go."""

    count: int
    report: Report

    def note(self, text: str) -> None:
        """Progress, on stderr: the report alone is on stdout."""
        sys.stderr.write(f"{self.report.claim}: {text}\n")
        sys.stderr.flush()

    def skip(self, reason: str) -> None:
        """Name what could not be measured, and why."""
        self.report.not_measured.append(reason)

    def figure(self, figure: Figure) -> None:
        self.report.figures.append(figure)

    def medians(
        self,
        name: str,
        values: Sequence[float],
        *,
        unit: str = "s",
        target: float | None = None,
        peer: tuple[str, Sequence[float] | str] | None = None,
    ) -> None:
        """Add a median beside a peer's, or name why there is none.

        Args:
            peer: Its name with its samples, or with the reason why it was not measured.
        """
        try:
            value = median(values)
        except NotMeasuredError as error:
            self.skip(f"{name}: {error}")
            return
        basis = f"median of {len(values)}"
        scattered = is_scattered(values)
        self.figure(Figure(name, value, unit, basis, target, _peer_median(peer), scattered))


Sample = Callable[[], float]


def alternate(count: int, sides: Sequence[Sample]) -> list[list[float]]:
    """Take this many samples of each side, in turn, the first to go changing every round."""
    taken: list[list[float]] = [[] for _ in sides]
    for turn in range(count):
        for offset in range(len(sides)):
            side = (turn + offset) % len(sides)
            taken[side].append(sides[side]())
    return taken


def run(claim: Claim, count: int, *, realtime: bool = True) -> Report:
    """Measure one claim."""
    before = others_pressure()
    report = Report(claim.name, this_machine(), realtime and claim.realtime and become_realtime())
    report.pressure_before = before
    pressure = Pressure()
    try:
        claim.measure(Run(count, report))
    except NotMeasuredError as error:
        report.not_measured.append(str(error))
    report.pressure_during = pressure.share()
    report.pressure_after = others_pressure()
    return report


def main(claim: Claim, arguments: Sequence[str] | None = None) -> int:
    """Run one claim as a program: the report on stdout; exit 1 if a target was missed or nothing was measured."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{claim.name}", description=claim.text)
    parser.add_argument("--count", type=int, help=f"samples (smoke {claim.smoke}, full {claim.full})")
    parser.add_argument("--full", action="store_true", help="the size that the claim is made with")
    parser.add_argument("--ordinary", action="store_true", help="do not ask for real-time priority")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    options = parser.parse_args(arguments)
    count = options.count or (claim.full if options.full else claim.smoke)
    report = run(claim, count, realtime=not options.ordinary)
    print("\n".join(report.lines()))
    if options.json:
        options.json.write_text(json.dumps(report.document(), indent=1) + "\n")
    return 1 if report.missed or not report.figures else 0


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _peer_median(peer: tuple[str, Sequence[float] | str] | None) -> Peer | None:
    if peer is None:
        return None
    name, values = peer
    if isinstance(values, str):
        return Peer(name, reason=values)
    try:
        return Peer(name, median(values))
    except NotMeasuredError as error:
        return Peer(name, reason=str(error))
