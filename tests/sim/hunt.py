"""Hunt planted bugs: `python -m tests.sim.hunt [NAME …]` looks for the first seed that catches each.

The budget is 200 seeds a bug, and the median should be 20 at most; found seeds are kept beside the mutants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from multiprocessing.pool import Pool

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


def hunt(place: int, pool: Pool, budget: int, batch: int) -> Report | GossipReport | None:
    """The first seed of the budget that catches the mutant at this place."""
    for first in range(1, budget + 1, batch):
        tasks = [(place, seed) for seed in range(first, min(first + batch, budget + 1))]
        found = next((report for report in pool.map(_try, tasks, chunksize=1) if report is not None), None)
        if found is not None:
            return found
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.hunt", description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants, or parts of their names; all without")
    parser.add_argument("--budget", type=int, default=BUDGET)
    arguments = parser.parse_args()
    needed: list[int] = []
    workers = os.cpu_count() or 1
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        for place, mutant in enumerate(all_mutants()):
            if arguments.names and not any(name in mutant.name for name in arguments.names):
                continue
            report = hunt(place, pool, arguments.budget, workers)
            if report is None:
                print(f"{mutant.number:>3} {mutant.name:<40} NOT CAUGHT in {arguments.budget} seeds", flush=True)
                needed.append(arguments.budget + 1)
            else:
                needed.append(report.seed)
                print(f"{mutant.number:>3} {mutant.name:<40} seed {report.seed:<4} {report.failure}", flush=True)
    caught = [seed for seed in needed if seed <= arguments.budget]
    if needed:
        print(f"{len(caught)} of {len(needed)} caught; median of the seeds needed: {sorted(needed)[len(needed) // 2]}")
    return 0 if len(caught) == len(needed) else 1


if __name__ == "__main__":
    sys.exit(main())
