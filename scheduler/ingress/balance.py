"""Choosing a replica: power of two choices by what each has in flight, and by its latency where that differs much.

Two replicas are drawn and the cheaper one is asked, which avoids both the herd (all asking the one that looks best)
and the blindness of taking turns. A replica costs the requests it would then have in flight; where one takes more than
twice as long as the other, each costs that much more. Replicas that are alike share evenly, whatever a busy machine
does to their figures; one that failed is set aside for a moment that doubles, and asked again before the others are
given up.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); cost as latency times requests
in flight, with a decaying average, is Finagle's ("Beyond Round Robin", 2017). Theirs counts a peak at once, ours a
tenth of it: the requests that a stall holds up are in flight meanwhile, and count by themselves.
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
"""How fast a latency is forgotten: a replica that took a second gets another chance after half a minute."""

LATENCY_FLOOR_S = 0.02
"""Nobody notices less, and an unknown replica is taken to cost this."""

ALIKE = 2.0
"""Latencies within this ratio are equal. Without it the nearest by a hair would do nearly all of the work."""

WEIGHT = 0.1
"""What one latency counts for: half a second makes a replica stand out, a hiccup of a machine that is busy
with other things doesn't."""

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
        return second if self._is_cheaper(now, second, first) else first

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

    def _is_cheaper(self, now: float, one: Target, other: Target) -> bool:
        """Is one more request better with the one?"""
        ours, theirs = self._loads.get(one, _Load()), self._loads.get(other, _Load())
        ratio = _current(ours, now) / _current(theirs, now)
        if 1 / ALIKE <= ratio <= ALIKE:
            ratio = 1.0
        return ratio * (ours.in_flight + 1) < theirs.in_flight + 1

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


def _current(load: _Load, now: float) -> float:
    return max(LATENCY_FLOOR_S, faded(load.latency_s, now - load.noted_at))


def smoothed(average_s: float, latency_s: float, elapsed_s: float) -> float:
    """The average after one more latency; a lower one counts for more the longer nothing was heard."""
    weight = WEIGHT if latency_s > average_s else max(WEIGHT, 1.0 - math.exp(-max(0.0, elapsed_s) / DECAY_S))
    return average_s + weight * (latency_s - average_s)


def faded(average_s: float, age_s: float) -> float:
    """The average as it counts after a time without news: it goes back to what an unknown replica costs."""
    if average_s <= LATENCY_FLOOR_S:
        return average_s
    return LATENCY_FLOOR_S + (average_s - LATENCY_FLOOR_S) * math.exp(-max(0.0, age_s) / DECAY_S)


@dataclass(slots=True)
class RetryBudget:
    """How many retries there may be: a fifth of the requests of the last ten seconds, and a few when there are hardly
    any.

    Without it, retries turn an overload into an outage that outlives its cause (faults page, metastable overload). What
    was saved grows with the load, for so does what is under way to a replica when its node dies.

    Source: Finagle's `RetryBudget` (a fifth, ten seconds).
    """

    share: float = 0.2
    floor: float = 20.0
    reserve: float = 20.0
    noted_at: float = -math.inf

    def note_request(self, now: float) -> None:
        self._fade(now)
        self.reserve += self.share

    def take(self, now: float) -> bool:
        """May there be one more?"""
        self._fade(now)
        if self.reserve < 1.0:
            return False
        self.reserve -= 1.0
        return True

    def _fade(self, now: float) -> None:
        if self.reserve > self.floor:
            self.reserve = self.floor + (self.reserve - self.floor) * math.exp(-max(0.0, now - self.noted_at) / DECAY_S)
        self.noted_at = now
