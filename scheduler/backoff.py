"""How long to wait before a replica is started again: doubling, jittered, forgiven after a good while. Pure."""

from __future__ import annotations

import random

from scheduler.runtimes.messages import RestartPolicy

JITTER = 0.2
"""A fifth up or down, so that replicas that fell together do not rise together."""


class Backoff:
    """Counts the restarts of one replica.

    Args:
        policy: First and longest wait, and when to give up.
        restarts: How many there were already, before this daemon.
        rng: For the jitter.
    """

    def __init__(self, policy: RestartPolicy, *, restarts: int, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._in_a_row = 0
        self.restarts = restarts

    def failed(self, healthy_s: float) -> float | None:
        """A run ended that was not asked to.

        Args:
            healthy_s: How long it had been healthy; as long as the longest wait forgives what was before.

        Returns:
            Seconds to wait before the next start; None: given up.
        """
        if healthy_s >= self._policy.last_s:
            self._in_a_row = 0
        self._in_a_row += 1
        self.restarts += 1
        if self._policy.give_up_after and self._in_a_row > self._policy.give_up_after:
            return None
        doubled: float = self._policy.first_s * 2.0 ** min(self._in_a_row - 1, 32)
        delay_s = min(self._policy.last_s, doubled)
        return delay_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
