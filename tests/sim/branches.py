"""Which branches of the cores the simulator takes by itself: `python -m tests.sim.branches --seeds 100`.

The cores are the machines that a simulated node drives: those of gossip and consensus in the house test's list. One
process and no pragma; what is never taken is listed, for it is either a workload that is missing, or code too much.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage

ROOT = Path(__file__).parents[2]
CORES = ("consensus/", "gossip/")
FLOOR = 0.8
"""What is reached is kept; the goal is 0.95."""


def cores() -> list[str]:
    """The files, from the root."""
    from tests.unit.test_house import machines

    found = (path.relative_to(ROOT).as_posix() for path in machines())
    return [name for name in found if name.startswith(CORES)]


def measure(first: int, count: int) -> dict[str, Any]:
    """Run these seeds; returns coverage's own report of the cores."""
    tracer = coverage.Coverage(
        branch=True, config_file=False, data_file=None, include=[str(ROOT / name) for name in cores()]
    )
    tracer.start()
    from tests.sim.run import run_seeds

    run_seeds(first, count, processes=1)
    tracer.stop()
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        tracer.json_report(outfile=out.name, morfs=[str(ROOT / name) for name in cores()])
        found: dict[str, Any] = json.loads(Path(out.name).read_text())
    return found


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A line a file, the least covered first."""
    files = sorted(report["files"].items(), key=lambda item: -item[1]["summary"]["missing_branches"])
    for name, one in files:
        total, missing = one["summary"]["num_branches"], one["summary"]["missing_branches"]
        if missing:
            where = " ".join(f"{begin}→{'exit' if end < 0 else end}" for begin, end in one["missing_branches"])
            yield f"{name:<34} {total - missing:>4} of {total:<4} not taken: {where}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.branches", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    arguments = parser.parse_args()
    report = measure(arguments.first, arguments.seeds)
    for line in lines(report):
        print(line)
    total, covered = report["totals"]["num_branches"], report["totals"]["covered_branches"]
    print(f"{covered} of {total} branches of the cores ({covered / total:.1%}) are taken by {arguments.seeds} seeds")
    return 0 if covered >= FLOOR * total else 1


if __name__ == "__main__":
    sys.exit(main())
