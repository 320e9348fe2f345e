"""One signal for "what this node knows has changed": the ledger, or what gossip told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Pulse:
    """A counter that can be waited on; many changes in a row are one wake-up."""

    def __init__(self) -> None:
        self._count = 0
        self._event = trio.Event()

    @property
    def count(self) -> int:
        return self._count

    def beat(self) -> None:
        """Tell everyone who waits."""
        self._count += 1
        self._event.set()
        self._event = trio.Event()

    async def wait_after(self, seen: int) -> int:
        """The count, once it is above `seen`; returns at once if it is already."""
        while self._count <= seen:
            await self._event.wait()
        return self._count

    def reader(self) -> Callable[[float], Awaitable[None]]:
        """A wait for one consumer: returns when something changed since it returned last, or at the given time.

        Whoever looks right after it returns misses nothing, however long the work on what it saw takes.
        """
        seen = self._count

        async def wait(until: float) -> None:
            nonlocal seen
            with trio.move_on_at(until):
                await self.wait_after(seen)
            seen = self._count

        return wait
