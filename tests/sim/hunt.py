"""Hunt planted bugs: `python -m tests.sim.hunt [NAME …]` looks for the first seed that catches each.

The budget is 200 seeds a bug, and the median should be 20 at most; found seeds are kept beside the mutants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys

from tests.sim.gossip_run import GossipReport
from tests.sim.mutants import consensus, gossip
from tests.sim.mutants.gossip import GossipMutant
from tests.sim.mutants.mutant import Mutant
from tests.sim.simulation import Report

BUDGET = 200


def all_mutants() -> tuple[Mutant | GossipMutant, ...]:
    """Every planted bug, by its number."""
    found: list[Mutant | GossipMutant] = [*consensus.MUTANTS, *gossip.MUTANTS]
    return tuple(sorted(found, key=lambda mutant: (mutant.number, mutant.name)))


def _try(task: tuple[int, int]) -> Report | GossipReport | None:
    place, seed = task
    report = all_mutants()[place].caught(seed)
    if report is not None:
        report.story = ()
    return report


def hunt(place: int, pool: multiprocessing.pool.Pool, budget: int) -> tuple[Report | GossipReport | None, int]:
    """The first seed of the budget that catches the mutant at this place, and how many were run."""
    tasks = [(place, seed) for seed in range(1, budget + 1)]
    for tried, report in enumerate(pool.imap(_try, tasks), 1):
        if report is not None:
            return report, tried
    return None, budget


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.hunt", description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants, or parts of their names; all without")
    parser.add_argument("--budget", type=int, default=BUDGET)
    arguments = parser.parse_args()
    needed: list[int] = []
    for place, mutant in enumerate(all_mutants()):
        if arguments.names and not any(name in mutant.name for name in arguments.names):
            continue
        with multiprocessing.get_context("forkserver").Pool(os.cpu_count()) as pool:
            report, tried = hunt(place, pool, arguments.budget)
        if report is None:
            print(f"{mutant.number:>3} {mutant.name:<36} NOT CAUGHT in {tried} seeds", flush=True)
            needed.append(arguments.budget + 1)
        else:
            needed.append(report.seed)
            print(f"{mutant.number:>3} {mutant.name:<36} seed {report.seed:<4} {report.failure}", flush=True)
    caught = [seed for seed in needed if seed <= arguments.budget]
    if needed:
        print(f"{len(caught)} of {len(needed)} caught; median of the seeds needed: {sorted(needed)[len(needed) // 2]}")
    return 0 if len(caught) == len(needed) else 1


if __name__ == "__main__":
    sys.exit(main())
