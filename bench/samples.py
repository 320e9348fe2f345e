"""Arithmetic of measurements: medians, tails, ratios, and the refusal to make a figure out of too little."""

from __future__ import annotations

import math
from collections.abc import Sequence

MEDIAN_SAMPLES_MIN = 3
"""Of two values neither is the middle one."""

P99_SAMPLES_MIN = 50
"""Below that the 99th percentile is the slowest by a wide margin, and is called that."""

SCATTERED = 0.5
"""An interquartile range above half the median: the median alone would say too little."""


class NotMeasuredError(Exception):
    """There is no figure, and this is why."""


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the middle two.

    Raises:
        NotMeasuredError: Fewer than three values.
    """
    if len(values) < MEDIAN_SAMPLES_MIN:
        raise NotMeasuredError(f"a median needs {MEDIAN_SAMPLES_MIN} samples, there are {len(values)}")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed (nearest rank: always a value that occurred).

    Raises:
        NotMeasuredError: No values.
    """
    if not values:
        raise NotMeasuredError("there are no samples")
    if not 0 < share <= 1:
        raise ValueError(f"a share is within (0, 1], not {share}")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def tail(values: Sequence[float]) -> tuple[str, float]:
    """The 99th percentile under its name, or with few samples the worst under its own.

    Raises:
        NotMeasuredError: No values.
    """
    if len(values) >= P99_SAMPLES_MIN:
        return f"p99 of {len(values)}", percentile(values, 0.99)
    return f"worst of {len(values)}", percentile(values, 1.0)


def ratio(ours: float, peer: float) -> float:
    """How many times the peer's value ours is.

    Raises:
        NotMeasuredError: The peer's value is no measure (zero, negative or not a number).
    """
    if not (math.isfinite(peer) and peer > 0 and math.isfinite(ours)):
        raise NotMeasuredError(f"no ratio of {ours} to {peer}")
    return ours / peer


def is_scattered(values: Sequence[float]) -> bool:
    """True if the middle half of the values is wide beside their median."""
    if len(values) < MEDIAN_SAMPLES_MIN:
        return False
    return percentile(values, 0.75) - percentile(values, 0.25) > SCATTERED * median(values)
