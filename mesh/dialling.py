"""When to dial a peer again: addresses, back-off with jitter, and who waits for the outcome."""

from __future__ import annotations

import random
from math import inf

import trio

from mesh.errors import FreecloudError

BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
"""A peer that comes back is found within this; whoever hears of it earlier (gossip) says so by `seen`."""

SEEN_EVERY_S = 2.0
"""Datagrams that arrive and a port that refuses: more dials than one in so long would be a storm."""

SETTLED_S = 5.0
"""A link that lived this long was a good one; one that did not counts as another failure."""


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds to wait after that many failures in a row; jitter is in 0..1 and keeps peers from dialling in step."""
    if failures == 0:
        return 0.0
    longest: float = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + 0.5 * jitter)


class DialState:
    """What is known of one peer that we may have to dial."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.addresses: tuple[str, ...] = ()
        self.dialling = False
        self.last_error: FreecloudError | None = None
        self._failures = 0
        self._not_before = 0.0
        self._seen_at = -inf
        self._outcome = trio.Event()

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """New addresses deserve an attempt at once."""
        if addresses != self.addresses:
            self.addresses = addresses
            self.forget_failures()

    def forget_failures(self) -> None:
        self._failures = 0
        self._not_before = 0.0

    def seen(self, now: float) -> None:
        """There is a sign of life. It may not prove that a dial succeeds, so it counts now and then only."""
        if now - self._seen_at >= SEEN_EVERY_S:
            self._seen_at = now
            self.forget_failures()

    def may_dial(self, now: float) -> bool:
        return bool(self.addresses) and not self.dialling and now >= self._not_before

    def waiting(self) -> trio.Event:
        """Set when the attempt that is under way, or a link that the peer opened, has come to something."""
        return self._outcome

    def prefer(self, address: str) -> None:
        """This one answered: try it first next time."""
        self.addresses = (address, *(other for other in self.addresses if other != address))

    def failed(self, now: float, error: FreecloudError | None) -> None:
        """An attempt failed, or its link ended before it was `SETTLED_S` old."""
        self._failures += 1
        self._not_before = now + backoff_s(self._failures, self._rng.random())
        if error is not None:
            self.last_error = error
        self.wake()

    def settled(self) -> None:
        self._failures = 0
        self._not_before = 0.0
        self.last_error = None

    def wake(self) -> None:
        """Tell everyone who waits to look again."""
        outcome, self._outcome = self._outcome, trio.Event()
        outcome.set()
