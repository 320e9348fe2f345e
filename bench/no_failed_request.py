"""Claim: at 100 GETs a second, no request fails whose response had not begun, whatever happens to the replicas.

Five nodes, three replicas, a client that retries nothing and asks the nodes in turn. Round after round: a rolling
update, a scale-down, kill -9 of a whole node that has a replica, the leader where it has one; or a node that falls
silent instead, its connections open. `--count` is the number of requests of each load: plain GETs, a mix with slow
answers, streams and POSTs, which must not be done twice, and GETs that a node's silence strikes.
There is no peer: a promise is counted, not timed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.harness import Claim, Figure, Run, main
from bench.meshes import mesh, scratch
from tests.e2e.steady import APP, GETS, MANIFEST, MIXED, REPLICAS, SLOW, Outcome, Storm
from tests.e2e.steady import run as command
from tests.e2e.steady_client import SteadyClient, Wish

NODES = 5
RATE = 100.0
PAUSE = 200
SURVIVORS_MIN = 2
"""The client asks only nodes that are never killed: with two of them left, the load ends as it is."""


def measure(run: Run) -> None:
    loads = (("GETs", GETS, False), ("a mixed load", MIXED, False), ("GETs, nodes fall silent", SLOW, True))
    for name, wishes, silent in loads:
        outcome = under_trouble(run, name, wishes, silent)
        told, alone = outcome.broken_promises(), outcome.unaccounted()
        for shot in told:
            run.note(f"{shot}; the relay says {outcome.failed.get(shot.request_id)}")
        for request_id in alone:
            run.note(f"{request_id} stands in one account only: {outcome.failed.get(request_id)}")
        basis = f"of {len(outcome.shots)}"
        promise(run, f"{name}: failed before a response had begun", len(told), basis)
        ended = outcome.gracelessly_ended()
        promise(run, f"{name}: failed at a replica that was only asked to end", len(ended), basis)
        promise(run, f"{name}: failures in one account only", len(alone), basis)
        if outcome.took:
            twice = sum(count > 1 for count in outcome.took.values())
            promise(run, f"{name}: POSTs done twice", twice, f"of {len(outcome.took)}")
        run.figure(Figure(f"{name}: torn or not sent again, and accounted for", len(outcome.unserved()), "", basis))


def promise(run: Run, name: str, broken: int, basis: str) -> None:
    run.figure(Figure(name, broken, "", basis, target=1, counted=True))


def under_trouble(run: Run, name: str, wishes: Sequence[Wish], silent: bool) -> Outcome:
    """One load of the size that was asked for, and as many rounds as fit."""
    with scratch() as folder, mesh(folder, NODES) as ours:
        command(ours.nodes[0], "deploy", "--manifest", str(MANIFEST))
        with SteadyClient(APP, ours.nodes, RATE, wishes) as client:
            storm = Storm(ours, client, PAUSE)
            while len(client.shots) < run.count and len(storm.survivors) > SURVIVORS_MIN:
                if silent:
                    storm.silent_round()
                else:
                    storm.round()
                    storm.bring_back()
                    storm.scale(REPLICAS)
                run.note(f"{name}: {storm.killed[-1].name} was struck; {len(client.shots)} requests so far")
            client.reach(run.count)
            client.stop()
            return storm.outcome()


CLAIM = Claim("no_failed_request", __doc__ or "", measure, smoke=1000, full=5000, realtime=False)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
