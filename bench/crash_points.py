"""Claim: a daemon killed at any system call comes back with everything that it promised.

Points are drawn from the writing calls of start-up (the first one and a restart), join, deploy and compaction, a
quarter inside each; a kill counts if the daemon died of the call. After each the same home is started again: it must
serve, decide, and have every secret, token and release that was acknowledged. `--count` is the number of kills; there
is no peer, for a peer's promises are others.
"""

from __future__ import annotations

import random
import sys
from itertools import cycle, islice
from pathlib import Path

from bench.harness import Claim, Figure, Run, main
from bench.meshes import scratch
from bench.samples import NotMeasuredError
from tests.e2e.crash_points import Compaction, Deploy, FirstStart, Join, Restart, Scenario, Struck
from tests.e2e.strace import Point, has_strace

MOMENTS: dict[str, tuple[type[Scenario], ...]] = {
    "start-up": (FirstStart, Restart),
    "join": (Join,),
    "deploy": (Deploy,),
    "compaction": (Compaction,),
}

SEED = "crash-points"

TRIES = 3
"""A call of that number is not made every time: the daemon's threads share the work as it comes."""


def measure(run: Run) -> None:
    if not has_strace():
        raise NotMeasuredError("strace is not installed, or may not trace here")
    with scratch() as folder:
        for number, (moment, scenarios) in enumerate(MOMENTS.items()):
            kills = len(range(number, run.count, len(MOMENTS)))
            shares = [len(range(place, kills, len(scenarios))) for place in range(len(scenarios))]
            outcomes = [
                outcome
                for scenario, share in zip(scenarios, shares, strict=True)
                for outcome in strikes(run, scenario, folder, share)
            ]
            failures = sum(isinstance(outcome, AssertionError) for outcome in outcomes)
            basis = f"of {len(outcomes)} kills at a call"
            run.figure(Figure(f"broken promises, {moment}", failures, "", basis, target=1, counted=True))


def strikes(run: Run, scenario: type[Scenario], folder: Path, count: int) -> list[Struck | AssertionError]:
    """This many deaths at a call; after one that found something, the next happen in a home of their own."""
    rng = random.Random(f"{SEED} {scenario.name}")
    played, points = _prepared(run, scenario, folder)
    outcomes: list[Struck | AssertionError] = []
    try:
        for point in islice(cycle(rng.sample(points, len(points))), TRIES * count):
            try:
                struck = played.strike(point)
            except AssertionError as error:
                outcomes.append(error)
                run.note(f"{scenario.name}: {point}: {error}")
                played.stop()
                played, points = _prepared(run, scenario, folder)
            else:
                outcomes += [struck] if struck.died else []
                run.note(f"{len(outcomes)} of {count}: {struck}")
            if len(outcomes) == count:
                break
    finally:
        played.stop()
    return outcomes


def _prepared(run: Run, scenario: type[Scenario], folder: Path) -> tuple[Scenario, list[Point]]:
    own = folder / f"{scenario.name.replace(' ', '-')[:8]}{len(list(folder.iterdir()))}"
    played = scenario(own)
    points = played.points()
    run.note(f"{scenario.name}: {len(points)} writing calls")
    return played, points


CLAIM = Claim("crash_points", __doc__ or "", measure, smoke=8, full=200, realtime=False)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
