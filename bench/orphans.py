"""Claim: a daemon that is gone for 60 s leaves nothing of its apps: no process, no shim, no control group (rule A2).

The real time, where `tests/acceptance/test_outlive.py` shortens it. Until then they must live: that is what a restart
of the daemon needs. There is no peer: the target is 60 s, 10 s of grace for the app, and what it takes to look.
"""

from __future__ import annotations

import sys
import time

from bench.harness import Claim, Figure, Run, main
from bench.meshes import mesh, moment, scratch
from bench.samples import NotMeasuredError
from scheduler.runtimes.runtime import RENEW_EVERY_S, RENEWAL_LIMIT_S
from tests.e2e import leftovers
from tests.e2e.stray_app import STRAYS, write_stray_app

TARGET_S = RENEWAL_LIMIT_S + 10.0 + 5.0
TOO_SOON_S = RENEWAL_LIMIT_S - RENEW_EVERY_S - 5.0


def measure(run: Run) -> None:
    took_s = [one_death(run) for _ in range(run.count)]
    run.figure(Figure("until nothing of its apps was left", max(took_s), "s", f"slowest of {run.count}", TARGET_S))


def one_death(run: Run) -> float:
    """Seconds from the daemon's death to the end of all that it had started."""
    with scratch() as folder, mesh(folder, 1) as ours:
        node, app = ours.nodes[0], write_stray_app(folder / "app")
        done = node.run("deploy", "--manifest", str(app.manifest))
        if done.status != 0:
            raise NotMeasuredError(f"it was not deployed: {done.err.strip()[-300:]}")
        moment("its strays", lambda: len(app.strays()) == STRAYS)
        known = leftovers.node_id(node.home)
        began = time.monotonic()
        node.kill_daemon()
        moment("the first to end", lambda: len(app.strays()) < STRAYS, 2 * TARGET_S)
        first_s = time.monotonic() - began
        if first_s < TOO_SOON_S:
            raise NotMeasuredError(f"an app was ended {first_s:.0f} s after its daemon's death: too soon")
        moment("no process", lambda: not app.strays() and not leftovers.processes_of(node.home / "apps"))
        moment("no control group", lambda: not leftovers.groups_of(known or ""))
        took_s = time.monotonic() - began
    run.note(f"the first process ended after {first_s:.1f} s, the last after {took_s:.1f} s")
    return took_s


CLAIM = Claim("orphans", __doc__ or "", measure, smoke=1, full=3, realtime=False)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
