"""Choosing a replica: power of two choices by what each has cost lately.

Two replicas are drawn and the cheaper one is asked, which avoids both the herd (all asking the one that looks best)
and the blindness of taking turns. A replica costs its smoothed latency times the requests it would then have in
flight; one that failed is set aside for a moment that doubles, and asked again before the others are given up.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); the peak-sensitive, decaying
average is Finagle's ("Beyond Round Robin", 2017).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from scheduler.ingress.routes import Target

IN_FLIGHT_MAX = 100
"""A replica's requests at once (limits page); more would only wait inside it."""

DECAY_S = 10.0
"""How fast a latency is forgotten: a replica that took 100 ms gets another chance after half a minute."""

LATENCY_FLOOR_S = 0.01
"""Nobody notices less, and an unknown replica is taken to cost this: below it replicas share the work evenly, or the
nearest by a hair would do all of it."""

ALIKE = 1.25
"""Costs within this ratio are equal; the one drawn first is asked. Averages never become equal, they only approach."""

ASIDE_FIRST_S = 1.0
ASIDE_LAST_S = 30.0


@dataclass(slots=True)
class _Load:
    """What is known of one replica."""

    latency_s: float = LATENCY_FLOOR_S
    noted_at: float = -math.inf
    in_flight: int = 0
    failures: int = 0  # in a row
    aside_until: float = -math.inf


@dataclass(frozen=True, slots=True)
class TargetStatistics:
    """One replica's figures."""

    target: Target
    latency_s: float
    in_flight: int
    failures: int


class Balancer:
    """Chooses, and learns from what came of it. Every `begin` is followed by one `end`.

    Args:
        rng: Draws the two.
    """

    def __init__(self, rng: random.Random, *, in_flight_max: int = IN_FLIGHT_MAX) -> None:
        self._rng = rng
        self._in_flight_max = in_flight_max
        self._loads: dict[Target, _Load] = {}

    def choose(self, now: float, candidates: Sequence[Target], tried: Collection[Target] = ()) -> Target | None:
        """The replica to ask next; None when all were tried or are full.

        Args:
            tried: Those that this request has been to.
        """
        free = [target for target in candidates if target not in tried and self._room(target)]
        if not free:
            return None
        eager = [target for target in free if self._loads.get(target, _Load()).aside_until <= now]
        drawn = self._rng.sample(eager or free, min(2, len(eager or free)))
        first, second = drawn[0], drawn[-1]
        return second if self.cost(now, second) * ALIKE < self.cost(now, first) else first

    def full(self, candidates: Sequence[Target]) -> bool:
        """Is none of them free to take a request?"""
        return not any(self._room(target) for target in candidates)

    def begin(self, target: Target) -> None:
        """A request goes to this replica."""
        self._loads.setdefault(target, _Load()).in_flight += 1

    def end(self, now: float, target: Target, latency_s: float | None) -> None:
        """It is over; `latency_s` until its answer began, None when the replica failed."""
        load = self._loads.setdefault(target, _Load())
        load.in_flight = max(0, load.in_flight - 1)
        if latency_s is None:
            load.failures += 1
            load.aside_until = now + min(ASIDE_LAST_S, ASIDE_FIRST_S * 2.0 ** (load.failures - 1))
            return
        load.failures = 0
        load.aside_until = -math.inf
        load.latency_s = smoothed(load.latency_s, latency_s, now - load.noted_at)
        load.noted_at = now

    def release(self, target: Target) -> None:
        """It is over, and says nothing about the replica: the client left, or broke the protocol."""
        load = self._loads.get(target)
        if load is not None:
            load.in_flight = max(0, load.in_flight - 1)

    def cost(self, now: float, target: Target) -> float:
        """What one more request there is expected to cost, in seconds."""
        load = self._loads.get(target, _Load())
        return max(LATENCY_FLOOR_S, faded(load.latency_s, now - load.noted_at)) * (load.in_flight + 1)

    def keep_only(self, targets: Collection[Target]) -> None:
        """Forget those that are gone, once nothing is in flight there: the table has no other bound."""
        for target in [target for target in self._loads if target not in targets]:
            if not self._loads[target].in_flight:
                del self._loads[target]

    def statistics(self) -> tuple[TargetStatistics, ...]:
        return tuple(
            TargetStatistics(target, load.latency_s, load.in_flight, load.failures)
            for target, load in self._loads.items()
        )

    def _room(self, target: Target) -> bool:
        load = self._loads.get(target)
        return load is None or load.in_flight < self._in_flight_max


def smoothed(average_s: float, latency_s: float, elapsed_s: float) -> float:
    """The average after one more latency: a higher one counts at once, a lower one as much as time has passed."""
    if latency_s > average_s:
        return latency_s
    weight = math.exp(-max(0.0, elapsed_s) / DECAY_S)
    return average_s * weight + latency_s * (1.0 - weight)


def faded(average_s: float, age_s: float) -> float:
    """The average as it counts after a time without news: it goes back to what an unknown replica costs."""
    if average_s <= LATENCY_FLOOR_S:
        return average_s
    return LATENCY_FLOOR_S + (average_s - LATENCY_FLOOR_S) * math.exp(-max(0.0, age_s) / DECAY_S)


@dataclass(slots=True)
class RetryBudget:
    """How many retries there may be: a fifth of the requests, and a few when there are hardly any.

    Without it, retries turn an overload into an outage that outlives its cause (faults page, metastable overload).
    """

    share: float = 0.2
    reserve_max: float = 20.0
    reserve: float = 20.0

    def note_request(self) -> None:
        self.reserve = min(self.reserve_max, self.reserve + self.share)

    def take(self) -> bool:
        """May there be one more?"""
        if self.reserve < 1.0:
            return False
        self.reserve -= 1.0
        return True
