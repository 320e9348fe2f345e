"""The one trio loop that drives a machine: wait for a deadline or an input, feed, carry out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from mesh.machine import Machine

OutputT = TypeVar("OutputT")


class Driver(Generic[OutputT]):
    """Wakes a machine at its deadlines and whenever an input was fed to it.

    Whoever feeds an input to the machine calls `wake()` afterwards; all feeding happens in the trio thread, so the
    machine needs no lock. `perform` carries out one drained output and may await (a disk, a socket); inputs that
    arrive meanwhile are drained together in the next round, which is where batching comes from.

    Args:
        machine: The machine to drive.
        perform: Carries out one output. It decides nothing.
    """

    def __init__(
        self,
        machine: Machine[OutputT],
        perform: Callable[[OutputT], Awaitable[None]],
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._machine = machine
        self._perform = perform
        self._clock = clock
        self._woken = trio.Event()

    def wake(self) -> None:
        """Have the loop look at the machine again; cheap, and safe to call any number of times."""
        self._woken.set()

    async def run(self) -> None:
        """Drive for ever; ends only by cancellation or by an error from `perform`."""
        while True:
            with trio.move_on_at(self._machine.next_deadline()):
                await self._woken.wait()
            self._woken = trio.Event()
            self._machine.tick(self._clock())
            await self._perform(self._machine.take_output())
