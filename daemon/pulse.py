"""One signal for "what this node knows has changed": the ledger, or what gossip told."""

from __future__ import annotations

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
