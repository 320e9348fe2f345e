"""Hunt planted bugs: `python -m tests.sim.hunt [NAME …]` looks for the first seed that catches each.

The budget is 200 seeds a bug, and the median should be 20 at most. A seed counts only if the very same run is green
without the bug. With `--keep` what was found is written to `mutants/kept.py`, at the smallest size that still catches
the bug; the suite replays it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.pool import Pool
from pathlib import Path

from tests.sim.gossip_run import GossipReport
from tests.sim.mutants import consensus, gossip
from tests.sim.mutants.gossip import GossipMutant
from tests.sim.mutants.kept import KEPT
from tests.sim.mutants.mutant import SIZES, Kept, Mutant
from tests.sim.simulation import Report

BUDGET = 200
CAUGHT_MIN = 20
"""So many of section 4 of the faults page have code to break by now, and each must be caught."""

KEPT_FILE = Path(__file__).parent / "mutants" / "kept.py"
HEAD = '''"""The seed that caught each planted bug; written by `python -m tests.sim.hunt --keep`."""

from __future__ import annotations

from tests.sim.mutants.mutant import Kept

KEPT: dict[str, Kept] = {
'''


def all_mutants() -> tuple[Mutant | GossipMutant, ...]:
    """Every planted bug, by its number."""
    found: list[Mutant | GossipMutant] = [*consensus.MUTANTS, *gossip.MUTANTS]
    return tuple(sorted(found, key=lambda mutant: (mutant.number, mutant.name)))


def _try(task: tuple[int, int, float]) -> Report | GossipReport | None:
    place, seed, size = task
    mutant = all_mutants()[place]
    report = mutant.caught(seed, size)
    if report is None or not mutant.is_clean(seed, size):
        return None
    report.story = ()
    return report


def hunt(place: int, pool: Pool, budget: int, batch: int) -> Report | GossipReport | None:
    """The first seed of the budget that catches the mutant at this place."""
    for first in range(1, budget + 1, batch):
        tasks = [(place, seed, 1.0) for seed in range(first, min(first + batch, budget + 1))]
        found = next((report for report in pool.map(_try, tasks, chunksize=1) if report is not None), None)
        if found is not None:
            return found
    return None


def smallest(place: int, pool: Pool, found: Report | GossipReport) -> Kept:
    """The size at which to keep the seed."""
    if isinstance(all_mutants()[place], GossipMutant):
        return Kept(found.seed, 1.0, found.checker)
    reports = pool.map(_try, [(place, found.seed, size) for size in SIZES], chunksize=1)
    size, report = next((size, report) for size, report in zip(SIZES, reports, strict=True) if report is not None)
    return Kept(found.seed, size, report.checker)


def write_kept(kept: Mapping[str, Kept]) -> None:
    """Keep what was found; a bug that was not hunted this time keeps its seed."""
    order = [mutant.name for mutant in all_mutants() if mutant.name in kept]
    lines = [f'    "{name}": Kept({kept[name].seed}, {kept[name].size}, "{kept[name].checker}"),\n' for name in order]
    KEPT_FILE.write_text(HEAD + "".join(lines) + "}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.hunt", description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants, or parts of their names; all without")
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--keep", action="store_true", help="write the seeds that were found to mutants/kept.py")
    arguments = parser.parse_args()
    kept, needed = dict(KEPT), list[int]()
    workers = os.cpu_count() or 1
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        for place, mutant in enumerate(all_mutants()):
            if arguments.names and not any(name in mutant.name for name in arguments.names):
                continue
            report = hunt(place, pool, arguments.budget, workers)
            if report is None:
                print(f"{mutant.number:>3} {mutant.name:<40} NOT CAUGHT in {arguments.budget} seeds", flush=True)
                needed.append(arguments.budget + 1)
                kept.pop(mutant.name, None)
            else:
                kept[mutant.name] = smallest(place, pool, report)
                needed.append(report.seed)
                print(f"{mutant.number:>3} {mutant.name:<40} seed {report.seed:<4} {report.failure}", flush=True)
            if arguments.keep:
                write_kept(kept)
    caught = [seed for seed in needed if seed <= arguments.budget]
    print(f"{len(caught)} of {len(needed)} caught; median of the seeds needed: {sorted(needed)[len(needed) // 2]}")
    return 0 if len(caught) >= min(CAUGHT_MIN, len(needed)) else 1


if __name__ == "__main__":
    sys.exit(main())
