"""The two clocks of the edge: wall time to show and compare expiries, trio's for deadlines."""

from __future__ import annotations

import time

import trio


def wall_ms() -> int:
    """Milliseconds since the epoch by this machine's clock."""
    return time.time_ns() // 1_000_000


def deadline_in(seconds: float) -> float:
    """The absolute deadline that many seconds from now; set at the edge and carried in the call."""
    return trio.current_time() + seconds
