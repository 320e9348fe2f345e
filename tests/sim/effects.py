"""Does a fault change anything? Each seed is run again without one kind of its faults: an outcome has changed if who
led, or how any request ended, is then another story.

A fault that changes nothing tests nothing, however often it strikes. The share of seeds in which each kind changes an
outcome has a floor; `python -m tests.sim.effects --seeds 100` counts them all, the suite looks until the floor is met.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable
from multiprocessing.pool import Pool

from tests.sim.options import FAULTS, draw, without
from tests.sim.simulation import Simulation, Story, simulate

FLOOR = 0.2
"""Of all seeds, those that do not draw the fault included."""


def _struck(seed: int) -> tuple[int, Story, tuple[str, ...]]:
    report = simulate(draw(seed))
    return seed, report.story, tuple(fault for fault, times in report.struck.items() if times)


def _is_changed(task: tuple[int, str, Story]) -> bool:
    """Whether the seed without this fault tells another story; it is run until it does."""
    seed, fault, story = task
    return Simulation(without(draw(seed), fault)).departs_from(story)


def count(seeds: Iterable[int], pool: Pool, *, enough: int = 0) -> Counter[str]:
    """In how many of these seeds each fault changes an outcome; with `enough`, no further than to so many."""
    changed: Counter[str] = Counter()
    told = pool.map(_struck, seeds, chunksize=1)
    for seed, story, struck in told:
        faults = [fault for fault in struck if not enough or changed[fault] < enough]
        tasks = [(seed, fault, story) for fault in faults]
        for fault, is_changed in zip(faults, pool.map(_is_changed, tasks, chunksize=1), strict=True):
            changed[fault] += is_changed
    return changed


def below_the_floor(changed: Counter[str], seeds: int) -> list[str]:
    """The faults that change an outcome in too few of the seeds."""
    return [fault for fault in FAULTS if changed[fault] < FLOOR * seeds]


def workers() -> Pool:
    """One on each core."""
    return multiprocessing.get_context("forkserver").Pool(os.cpu_count() or 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.effects", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    arguments = parser.parse_args()
    with workers() as pool:
        changed = count(range(arguments.first, arguments.first + arguments.seeds), pool)
    print(f"of {arguments.seeds} seeds, each run again without each of its faults:")
    for fault in FAULTS:
        print(f"{fault:<16} changed an outcome in {changed[fault]:>4} ({changed[fault] / arguments.seeds:.0%})")
    below = below_the_floor(changed, arguments.seeds)
    if below:
        print(f"below the floor of {FLOOR:.0%}: {', '.join(below)}")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
