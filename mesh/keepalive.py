"""Is the peer still there, and how far away: a machine that pings when it is silent and measures the round trip."""

from __future__ import annotations

from math import inf

from mesh.mux_events import MuxConfig


class KeepAlive:
    """The time of one link; `heard` and `answered` tell it what arrived.

    Args:
        config: The intervals.
        now: Seconds on the machine's clock.
    """

    def __init__(self, config: MuxConfig, now: float) -> None:
        self._config = config
        self.last_heard = now
        self._asked: tuple[bytes, float] | None = None  # the ping that is under way
        self._last_measured = now - config.measure_every_s
        self._count = 0
        self.rtt_s = inf

    def heard(self, now: float) -> None:
        """Something arrived; whatever it was, the peer lives."""
        self.last_heard = now

    def answered(self, now: float, payload: bytes) -> None:
        """A pong arrived; one that nobody asked for is passed over."""
        if self._asked is None or self._asked[0] != payload:
            return
        measured = max(now - self._asked[1], 0.0)
        self._asked = None
        self._last_measured = now
        # RFC 6298 section 2: seven eighths of what was known, one eighth of what is new.
        self.rtt_s = measured if self.rtt_s == inf else 0.875 * self.rtt_s + 0.125 * measured

    def tick(self, now: float) -> bytes | None:
        """The payload of a ping to be sent now, or None."""
        if now - self.next_deadline() > self._config.overslept_s:
            self.last_heard = max(self.last_heard, now - self._config.keepalive_s)
            self._asked = None
        if self.is_dead(now) or self._asked is not None or now < self._ask_at():
            return None
        self._count += 1
        payload = self._count.to_bytes(8, "big")
        self._asked = (payload, now)
        return payload

    def is_dead(self, now: float) -> bool:
        """Silent for too long; ask after `tick`, which knows whether it was us who slept."""
        return now >= self._dead_at()

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        return self._dead_at() if self._asked is not None else min(self._dead_at(), self._ask_at())

    def _dead_at(self) -> float:
        return self.last_heard + self._config.silence_s

    def _ask_at(self) -> float:
        return min(
            self.last_heard + self._config.keepalive_s, self._last_measured + self._config.measure_every_s
        )
