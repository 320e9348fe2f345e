"""When a replica counts as healthy: probes in a row, in and out again (users' pain 20: unhealthy but running).

    starting ──healthy_after──► healthy ──unhealthy_after──► unhealthy ──healthy_after──► healthy
        │                                                        │
        └── never healthy within the start limit ── restart ─────┘── still unhealthy after as many again

Pure: probes and time come in as arguments.
"""

from __future__ import annotations

from gossip.record import ReplicaHealth
from scheduler.runtimes.messages import HealthCheck

START_S_MAX = 60.0
"""An app that has never been healthy for so long hangs; it is started anew. Nomad's default deadline is 5 min, ours is
a rollout's: whoever rolls out gives up at the same time."""

PROBE_SOON_S = 0.1
PROBE_GROWTH = 1.5
"""While it starts it is asked soon and then less often, up to its interval: five seconds from deploy to healthy."""

UNHEALTHY_FACTOR = 3
"""Restarted after this many times `unhealthy_after` failures: the first time it only leaves the ingress."""


class HealthGate:
    """The health of one run.

    Args:
        check: Counts and times from the manifest.
        started: When the run started.
    """

    def __init__(self, check: HealthCheck, started: float) -> None:
        self._check = check
        self._started = started
        self._successes = 0
        self._failures = 0
        self._next_probe = started + min(PROBE_SOON_S, check.interval_s)
        self._soon_s = PROBE_SOON_S
        self.health = ReplicaHealth.STARTING
        self.reason = "starting"

    def next_probe(self) -> float:
        """When to ask next."""
        return self._next_probe

    def record(self, now: float, failure: str | None) -> bool:
        """Take a probe's result; returns whether `health` changed.

        Args:
            now: When the result came.
            failure: None for success, else what was wrong.
        """
        before = self.health
        if failure is None:
            self._successes, self._failures = self._successes + 1, 0
            if self._successes >= self._check.healthy_after:
                self.health, self.reason = ReplicaHealth.HEALTHY, ""
        else:
            self._successes, self._failures = 0, self._failures + 1
            self.reason = failure
            if before is ReplicaHealth.HEALTHY and self._failures >= self._check.unhealthy_after:
                self.health = ReplicaHealth.UNHEALTHY
        if self.health is ReplicaHealth.STARTING:
            self._soon_s = min(self._soon_s * PROBE_GROWTH, self._check.interval_s)
            self._next_probe = now + self._soon_s
        else:
            self._next_probe = now + self._check.interval_s
        return self.health is not before

    def hopeless(self, now: float) -> str | None:
        """Why this run should be ended and another started; None while there is hope."""
        if self.health is ReplicaHealth.STARTING and now - self._started >= START_S_MAX:
            return f"not healthy within {START_S_MAX:g} s: {self.reason}"
        if (
            self.health is ReplicaHealth.UNHEALTHY
            and self._failures >= self._check.unhealthy_after * UNHEALTHY_FACTOR
        ):
            return f"unhealthy: {self.reason}"
        return None
