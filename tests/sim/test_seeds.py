"""The seeds of the suite: whole nodes under faults, every checker on, and the same story each time.

`SIM_SEEDS` says how many (make test: 300), `SIM_SEED=n` replays one with its trace on a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from math import ceil
from pathlib import Path

import pytest

from tests.sim.effects import FLOOR, below_the_floor, count, workers
from tests.sim.faults.director import strike_of
from tests.sim.options import FAULTS, WORKLOADS, draw
from tests.sim.run import run_seeds
from tests.sim.simulation import simulate

SEEDS = int(os.environ.get("SIM_SEEDS", "50"))
ONE = os.environ.get("SIM_SEED")
STEPS_MIN = 2_000
EFFECT_SEEDS = 14


@pytest.mark.skipif(ONE is not None, reason="SIM_SEED replays one seed")
@pytest.mark.deadline(3600)
def test_every_seed_is_green_and_long_enough() -> None:
    summary = run_seeds(1, SEEDS)
    failures = "\n".join(f"seed {report.seed}: {report.failure}" for report in summary.failed)
    assert not summary.failed, f"replay with `python -m tests.sim.run --seed N --trace`\n{failures}"
    assert min(summary.steps) >= STEPS_MIN
    assert summary.excused <= SEEDS / 50, "too many seeds lose their majority: the faults' budget is wrong"
    assert summary.wgl_gave_up <= SEEDS // 10, "the keys of the registers are used too long for an exact answer"
    if SEEDS >= 50:
        assert all(summary.struck_in[fault] >= SEEDS / 5 for fault in FAULTS), summary.struck_in


@pytest.mark.deadline(600)
def test_each_kind_of_fault_changes_an_outcome_in_a_fifth_of_the_seeds() -> None:
    with workers() as pool:
        changed = count(range(1, EFFECT_SEEDS + 1), pool, enough=ceil(FLOOR * EFFECT_SEEDS))
    assert not below_the_floor(changed, EFFECT_SEEDS), changed


@pytest.mark.skipif(ONE is None, reason="SIM_SEED=n replays a seed")
def test_the_one_seed_is_green() -> None:
    report = simulate(draw(int(ONE or "0")), keep_trace=True)
    assert not report.failure, f"{report.trace}\n{report.failure}"


def test_the_same_seed_gives_the_same_trace_under_another_hash_seed() -> None:
    def trace(hash_seed: str) -> str:
        finished = subprocess.run(
            [sys.executable, "-m", "tests.sim.run", "--seed", "7", "--trace"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
        )
        return finished.stdout

    first = trace("1")
    assert first == trace("2")
    assert first.count("\n") > 100


def test_every_file_of_faults_and_workloads_is_drawn() -> None:
    here = Path(__file__).parent
    apart = {"__init__", "chance", "director", "workload"}
    assert {path.stem for path in (here / "faults").glob("*.py")} - apart == set(FAULTS)
    assert {path.stem for path in (here / "workloads").glob("*.py")} - apart == set(WORKLOADS)
    for fault in FAULTS:
        assert strike_of(fault).__module__.endswith(fault)
