"""Claim: while a hostile app floods its node, its neighbour's median latency stays within twice the undisturbed one.

One node; the neighbour is asked through the ingress at a steady pace, each request on a connection of its own, first
in peace and then in the same minute while the hostile app forks, or fills its disk, its log or its memory. A ratio for
each kind of trouble, the median of several rounds; p99s for information, where there are enough requests for one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from bench.harness import Claim, Figure, Peer, Run, main
from bench.meshes import mesh, scratch
from bench.samples import NotMeasuredError, is_scattered, median, percentile, ratio
from scheduler.runtimes.shim_memory import descendants
from tests.e2e.cluster import Daemon, wait_until
from tests.e2e.hostile import Scene

TROUBLES = ("bomb", "flood-disk", "flood-log", "eat-memory")
TIMES = 2.0
REQUESTS, PAUSE_S = 100, 0.02
BOMB_PROCESSES = 40


def measure(run: Run) -> None:
    ratios: dict[str, list[float]] = {trouble: [] for trouble in TROUBLES}
    calm: dict[str, list[float]] = {trouble: [] for trouble in TROUBLES}
    tails: dict[str, list[float]] = {trouble: [] for trouble in TROUBLES}
    with scratch() as folder, mesh(folder, 1) as ours:
        scene = Scene(ours.nodes[0], folder)
        if scene.node.status()["node"]["sandbox"] == "none":
            raise NotMeasuredError("no sandbox works on this machine")
        scene.deploy_neighbour()
        for turn in range(run.count):
            for trouble in TROUBLES:
                peace, disturbed = one_round(scene, trouble)
                calm[trouble].append(median(peace))
                ratios[trouble].append(ratio(median(disturbed), median(peace)))
                tails[trouble].append(ratio(percentile(disturbed, 0.99), percentile(peace, 0.99)))
                run.note(
                    f"round {turn + 1}, {trouble}: {1000 * median(peace):.2f} ms in peace, "
                    f"{1000 * median(disturbed):.2f} ms beside it"
                )
    for trouble, values in ratios.items():
        _tell(run, f"latency beside {trouble}", values, TIMES, calm[trouble])
        _tell(run, f"p99 beside {trouble}", tails[trouble], None, calm[trouble])


def one_round(scene: Scene, trouble: str) -> tuple[list[float], list[float]]:
    """Latencies beside a hostile app that does nothing, and one in trouble; it is gone afterwards."""
    scene.deploy_hostile({})
    try:
        peace = latencies(scene.node)
        scene.make_trouble(trouble)
        shim = scene.run_of("hostile").facts.shim_pid
        if trouble == "bomb":
            wait_until("the bomb has gone off", lambda: len(descendants(shim)) > BOMB_PROCESSES)
        disturbed = latencies(scene.node, again=lambda: _again(scene, trouble))
    finally:
        done = scene.node.run("apps", "remove", "hostile")
        if done.status != 0:
            raise NotMeasuredError(f"the hostile app was not removed: {done.err.strip()}")
        wait_until("nothing of it is left", lambda: not list((scene.node.home / "apps").glob("hostile-*")))
    return peace, disturbed


def latencies(node: Daemon, again: Callable[[], None] = lambda: None) -> list[float]:
    """Seconds that each request took; every one must succeed."""
    taken = []
    for number in range(REQUESTS):
        if number % (REQUESTS // 4) == REQUESTS // 4 - 1:
            again()
        began = time.monotonic()
        status, _, body = node.get("neighbour", "/", timeout=20)
        taken.append(time.monotonic() - began)
        if (status, body) != (200, b"ok"):
            raise NotMeasuredError(f"the neighbour answered {status} {body[:200]!r}")
        time.sleep(PAUSE_S)
    return taken


def _again(scene: Scene, trouble: str) -> None:
    """The trouble that meets its bound within a moment is made anew, where the app still answers."""
    if trouble == "eat-memory":
        scene.wait_hostile_serves()
        scene.make_trouble(trouble)


def _tell(run: Run, name: str, values: list[float], target: float | None, peace: list[float]) -> None:
    peer = Peer("undisturbed in the same minute", 1.0)
    try:
        value = median(values)
    except NotMeasuredError as error:
        run.skip(f"{name}: {error}")
        return
    basis = f"median of {len(values)}, of {REQUESTS} requests each; {1000 * median(peace):.1f} ms in peace"
    run.figure(Figure(name, value, "×", basis, target, peer, is_scattered(values)))


CLAIM = Claim("neighbours", __doc__ or "", measure, smoke=3, full=7, realtime=True)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
