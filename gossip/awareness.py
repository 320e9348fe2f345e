"""Local health: how far a node trusts its own observations.

Intuition: a node that misses acks from everybody is more likely slow itself than alone among the dead. Every sign of
that makes all of its timeouts longer; every ack makes them shorter again.

Source: Lifeguard (DSN'18) §III.A (local health multiplier).
"""

from __future__ import annotations


class Awareness:
    """A score from 0 (healthy) to `limit`; timeouts are multiplied by score + 1.

    Args:
        start: Where a newcomer begins: it doubts itself before it has proof of the contrary.
        limit: The worst score.
    """

    def __init__(self, start: int, limit: int) -> None:
        self._score = min(start, limit)
        self._limit = limit

    @property
    def score(self) -> int:
        return self._score

    @property
    def multiplier(self) -> int:
        return self._score + 1

    def note(self, change: int) -> None:
        """Take a sign of health: -1 a probe was acked; +1 we were accused, lagged, or a probe failed without nacks."""
        self._score = max(0, min(self._limit, self._score + change))
