"""Who is told that the ledger changed: each at its own pace, none of them ever in the way of applying."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class LedgerChanged:
    """Something was applied, up to this index at least, or the leader changed."""

    index: int


@dataclass(frozen=True, slots=True, eq=False)
class _Watcher:
    """A channel that holds the newest item: an unread one gives way to it."""

    sender: trio.MemorySendChannel[LedgerChanged]
    receiver: trio.MemoryReceiveChannel[LedgerChanged]

    def tell(self, change: LedgerChanged) -> None:
        if self.sender.statistics().current_buffer_used:
            self.receiver.receive_nowait()
        self.sender.send_nowait(change)


class Watchers:
    """All channels that are open now."""

    def __init__(self) -> None:
        self._open: list[_Watcher] = []

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[LedgerChanged]]:
        """A channel with the newest change that was not read yet."""
        sender, receiver = trio.open_memory_channel[LedgerChanged](1)
        watcher = _Watcher(sender, receiver)
        self._open.append(watcher)
        try:
            yield receiver
        finally:
            self._open.remove(watcher)
            sender.close()
            receiver.close()

    def tell(self, change: LedgerChanged) -> None:
        for watcher in self._open:
            watcher.tell(change)
