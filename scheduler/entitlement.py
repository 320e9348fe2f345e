"""Since when a node may believe that an exclusive replica is still its own (rule A1). Pure.

A node that is cut off from the leader goes on renewing ordinary apps, but an exclusive one may be placed elsewhere
15 s after the leader lost sight of it. So it is renewed *as of* the moment when the leader was last heard, and its
shim ends it 8 s after that. The age of the ledger's copy counts by a clock that stands still in suspend; the shim's
does not. So each tick notes both clocks, and what was heard since the last tick counts as heard *at* the last tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class _Tick:
    monotonic: float
    boottime: float


class Entitlement:
    """Follows the age of the ledger's copy."""

    def __init__(self) -> None:
        self._last: _Tick | None = None
        self._since = -inf

    def tick(self, *, monotonic: float, boottime: float, ledger_age_s: float) -> None:
        """Note the clocks and how long ago, by `monotonic`, a live leader was last heard; once a second."""
        if self._last is not None and ledger_age_s < monotonic - self._last.monotonic:
            self._since = max(self._since, self._last.boottime)
        self._last = _Tick(monotonic, boottime)

    def confirm(self, asked_at: float) -> None:
        """A linearizable read succeeded that was asked for at this boottime."""
        self._since = max(self._since, asked_at)

    def since(self) -> float:
        """The boottime at which the leader was last known to be heard; -inf when never."""
        return self._since
