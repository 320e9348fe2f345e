"""What happened on this node's watch: a bounded ring, and whoever listens.

A listener that does not keep up is told so and closed ("lagged"); it never slows anyone (limits page: 1,024).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

EVENTS_KEPT = 2_048
QUEUE_MAX = 1_024
LISTENERS_MAX = 64
CLOCK_STEP_MS = 2_000
BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; `sequence` rises by one, so that a gap shows."""

    sequence: int
    at_ms: int
    kind: str  # "node.down", "leader.elected", "replica.healthy", …
    text: str


class EventLog:
    """Append, look back, listen."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._ahead_ms = self._wall_ahead_ms()
        self._kept: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._listeners: set[trio.MemorySendChannel[Event]] = set()
        self._sequence = 0

    def add(self, kind: str, text: str) -> None:
        """Note an event; never blocks."""
        self._look_at_clock()
        self._append(kind, text)

    def _look_at_clock(self) -> None:
        """Nobody tells a process that its clock was set; the times of events before and after differ by it."""
        before_ms, self._ahead_ms = self._ahead_ms, self._wall_ahead_ms()
        moved_ms = self._ahead_ms - before_ms
        if abs(moved_ms) >= CLOCK_STEP_MS:
            self._append("clock.stepped", f"the clock of this node was moved by {moved_ms / 1000:+.0f} s")

    def _wall_ahead_ms(self) -> int:
        """The wall clock against one that nobody can set."""
        return self._wall_ms() - int(time.clock_gettime(BOOTTIME) * 1000)

    def _append(self, kind: str, text: str) -> None:
        self._sequence += 1
        event = Event(self._sequence, self._wall_ms(), kind, text)
        self._kept.append(event)
        for listener in list(self._listeners):
            try:
                listener.send_nowait(event)
            except trio.WouldBlock:
                self._listeners.discard(listener)
                listener.close()

    def kept(self) -> tuple[Event, ...]:
        """The last events, oldest first."""
        self._look_at_clock()
        return tuple(self._kept)

    @contextmanager
    def listen(self) -> Iterator[AsyncIterator[Event]]:
        """Everything from now on; the iterator ends when the listener lagged."""
        send, receive = trio.open_memory_channel[Event](QUEUE_MAX)
        if len(self._listeners) >= LISTENERS_MAX:
            oldest = next(iter(self._listeners))
            self._listeners.discard(oldest)
            oldest.close()
        self._listeners.add(send)
        try:
            yield receive
        finally:
            self._listeners.discard(send)
            send.close()
            receive.close()
