"""The one shape of every protocol machine in this project.

A machine does no I/O. Inputs (`receive`, `propose`, `tick`, …) only change its state; `take_output()` drains what
it wants done as one frozen value; `next_deadline()` says when it wants to be woken. Time and randomness come in as
arguments, so that the same inputs in the same order give the same outputs, byte for byte.

Source: the shape of aioquic's `quic/connection.py` (`get_timer`, `handle_timer`, `datagrams_to_send`).
"""

from __future__ import annotations

from math import inf
from typing import Protocol, TypeVar

OutputT_co = TypeVar("OutputT_co", covariant=True)

ASLEEP = inf
"""What `next_deadline()` returns when only an input can make the machine act."""


class Machine(Protocol[OutputT_co]):
    """What `mesh.driver.drive` and the simulator need of a machine; times are seconds on one monotonic clock."""

    def tick(self, now: float) -> None:
        """Take note of the time; fires every timer that is due. Calling it early or twice changes nothing."""

    def next_deadline(self) -> float:
        """The time of the next timer, or `ASLEEP`. Never earlier than the last `now` unless something is due."""

    def take_output(self) -> OutputT_co:
        """What is to be done since the last call, drained: a second call returns an empty output."""
