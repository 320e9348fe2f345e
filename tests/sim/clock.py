"""Time in the simulated world: the one true agenda, and each node's own, worse clocks.

True time is what the heap orders by; no node ever sees it. A node reads a monotonic clock that runs at its own rate
and stands still in suspend (as CLOCK_MONOTONIC does), a boot-time clock that does not, and a wall clock that may jump.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

WALL_EPOCH_MS = 1_900_000_000_000
"""What every wall clock shows at true time 0; any fixed instant would do."""


class Agenda:
    """The heap of what is going to happen, in true seconds; equal times keep the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._asked = 0

    def at(self, time: float, action: Callable[..., None], *arguments: object) -> None:
        """Have `action(*arguments)` happen at this time; one that is past happens next."""
        self._asked += 1
        heapq.heappush(self._heap, (max(time, self.now), self._asked, action, arguments))

    def after(self, delay: float, action: Callable[..., None], *arguments: object) -> None:
        """`at`, counted from now."""
        self.at(self.now + delay, action, *arguments)

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen until this time, or until `done` says so after one of them; True if it did."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(heap)
            self.steps += 1
            action(*arguments)
            if done is not None and done():
                return True
        self.now = end
        return False


class NodeClock:
    """One node's view of time.

    Args:
        agenda: True time.
        rate: Seconds its monotonic clock counts in one true second.
        started: What its monotonic clock shows at true time 0; any value: nodes must not compare them.
    """

    def __init__(self, agenda: Agenda, *, rate: float = 1.0, started: float = 0.0) -> None:
        self._agenda = agenda
        self._rate = rate
        self._local = started
        self._since = agenda.now
        self._suspended = False
        self._wall_offset_ms = 0.0

    def monotonic(self) -> float:
        """Seconds, at the node's own rate, standing still while the host sleeps."""
        if self._suspended:
            return self._local
        return self._local + (self._agenda.now - self._since) * self._rate

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, as wrong as the steps have made it; it does go on in suspend."""
        return WALL_EPOCH_MS + int(self._agenda.now * 1000.0 + self._wall_offset_ms)

    def true_time_of(self, monotonic: float) -> float:
        """When, in true time, the monotonic clock will show this; `inf` while the host sleeps."""
        if monotonic == inf or self._suspended:
            return inf
        return self._since + (monotonic - self._local) / self._rate

    def set_rate(self, rate: float) -> None:
        """Drift from here on; the clock does not jump."""
        self._settle()
        self._rate = rate

    def step_wall(self, seconds: float) -> None:
        """A jump of the wall clock, either way (NTP, an operator, a leap)."""
        self._wall_offset_ms += seconds * 1000.0

    def suspend(self) -> None:
        """The host goes to sleep: the monotonic clock stands still."""
        self._settle()
        self._suspended = True

    def resume(self) -> None:
        """The host wakes up, knowing nothing of the time that has passed."""
        self._settle()
        self._suspended = False

    def _settle(self) -> None:
        self._local = self.monotonic()
        self._since = self._agenda.now
