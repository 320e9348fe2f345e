"""Those who watch gossip: a bounded channel each, and one `Lagged` in place of what a slow one missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gossip.events import GossipEvent, Lagged

QUEUE_MAX = 256
"""Events a watcher may be behind; then it looks at the view again, which is cheaper than the events."""


class Watchers:
    """Tells events to every watcher; never waits for one."""

    def __init__(self, queue_max: int = QUEUE_MAX) -> None:
        self._queue_max = queue_max
        self._lagging: dict[trio.MemorySendChannel[GossipEvent], bool] = {}

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[GossipEvent]]:
        """A channel of what is told while the block is open."""
        send, receive = trio.open_memory_channel[GossipEvent](self._queue_max)
        self._lagging[send] = False
        try:
            yield receive
        finally:
            del self._lagging[send]
            send.close()
            receive.close()

    def tell(self, event: GossipEvent) -> None:
        for send, lagging in self._lagging.items():
            try:
                if lagging:
                    send.send_nowait(Lagged())
                    self._lagging[send] = False
                send.send_nowait(event)
            except trio.WouldBlock:
                self._lagging[send] = True
            except trio.BrokenResourceError:
                continue  # its receiver was closed early; the watch ends with its block
