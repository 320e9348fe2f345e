"""Many seeds, on all cores: `python -m tests.sim.run --seeds 300 --first 1`, or one: `--seed 17 --trace`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.sim.options import FAULTS, draw
from tests.sim.simulation import Report, simulate


@dataclass(slots=True)
class Summary:
    """What many seeds came to."""

    seeds: int = 0
    failed: list[Report] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    struck_in: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    settled_s_max: float = 0.0
    wgl_gave_up: int = 0
    excused: int = 0

    def add(self, report: Report) -> None:
        """Count one seed."""
        self.seeds += 1
        if report.failure:
            self.failed.append(report)
        self.steps.append(report.steps)
        self.struck.update(report.struck)
        self.struck_in.update(fault for fault, times in report.struck.items() if times)
        self.deaths.update(report.deaths)
        self.outcomes.update(report.outcomes)
        self.settled_s_max = max(self.settled_s_max, report.settled_s)
        self.wgl_gave_up += report.wgl_gave_up
        self.excused += bool(report.excused)


def run_seed(seed: int) -> Report:
    """One seed."""
    report = simulate(draw(seed))
    report.story = ((), ())  # large, and only needed to compare
    return report


def run_seeds(first: int, count: int, *, processes: int | None = None) -> Summary:
    """Run these seeds on all cores; the order of results is that of the seeds."""
    summary = Summary()
    tasks = range(first, first + count)
    workers = processes or os.cpu_count() or 1
    if workers == 1 or count == 1:
        for task in tasks:
            summary.add(run_seed(task))
        return summary
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        for report in pool.imap(run_seed, tasks, chunksize=max(1, min(8, count // (4 * workers)))):
            summary.add(report)
    return summary


def print_summary(summary: Summary, seconds: float) -> None:
    """The table that `make sim` shows."""
    steps = sorted(summary.steps)
    print(f"{summary.seeds} seeds in {seconds:.1f} s, {summary.seeds - len(summary.failed)} green")
    print(f"steps a seed: least {steps[0]}, median {steps[len(steps) // 2]}, most {steps[-1]}")
    print(f"the slowest core settled in {summary.settled_s_max:.1f} s; wgl gave up on {summary.wgl_gave_up} keys")
    print(f"{summary.excused} seeds ended with a lost majority, which is excused from liveness")
    print("requests: " + ", ".join(f"{count} {what}" for what, count in sorted(summary.outcomes.items())))
    print("deaths: " + ", ".join(f"{count} {what}" for what, count in sorted(summary.deaths.items())))
    print(f"{'fault':<16} {'strikes':>8} {'in seeds':>9}")
    for fault in FAULTS:
        print(f"{fault:<16} {summary.struck[fault]:>8} {summary.struck_in[fault]:>9}")
    for report in summary.failed:
        print(f"FAILED seed {report.seed}: {report.failure}")
    if summary.failed:
        print(f"replay with: python -m tests.sim.run --seed {summary.failed[0].seed} --trace")


def replay(seed: int, *, trace: bool) -> int:
    """One seed, with its trace if asked for; the exit status."""
    report = simulate(draw(seed), keep_trace=trace)
    if trace:
        print(report.trace, end="")
    print(f"# seed {seed}: {report.failure or 'green'}")
    print(f"# {report.steps} steps, {report.true_s:.1f} s, trace {report.digest}, requests {report.outcomes}")
    return 1 if report.failure else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, help="replay this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print the options and every change")
    parser.add_argument("--processes", type=int)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed, trace=arguments.trace)
    began = time.monotonic()
    summary = run_seeds(arguments.first, arguments.seeds, processes=arguments.processes)
    print_summary(summary, time.monotonic() - began)
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
