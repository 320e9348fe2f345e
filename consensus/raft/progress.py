"""A follower as the leader sees it, and the window of what was sent to it and not acknowledged.

    PROBE      where the logs agree is not known: one Append, then wait for its answer or a heartbeat's
    REPLICATE  Appends are pipelined; `next_index` runs ahead of `match` by what is in the window
    SNAPSHOT   what it needs is compacted: no Appends until it has a snapshot that reconnects it

Source: etcd-io/raft `tracker/`.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from math import inf

from mesh.names import NodeId


class ProgressState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Window:
    """What is in flight to one follower, bounded by messages and bytes; empty when all is acknowledged (pitfall 25)."""

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._sent: deque[tuple[int, int]] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def is_full(self) -> bool:
        return len(self._sent) >= self._messages_max or self.size_bytes >= self._bytes_max

    def add(self, last_index: int, size_bytes: int) -> None:
        assert not self.is_full, "sent beyond the window"
        self._sent.append((last_index, size_bytes))
        self.size_bytes += size_bytes

    def acknowledge(self, index: int) -> None:
        """All messages that end at or before `index` have arrived."""
        while self._sent and self._sent[0][0] <= index:
            self.size_bytes -= self._sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self.size_bytes = 0


class SnapshotTransfer:
    """How far a snapshot has come to one follower."""

    __slots__ = ("asked_at", "end", "index", "last_offset", "offset", "progressed_at", "sending")

    def __init__(self, now: float) -> None:
        self.index = 0  # of the snapshot; 0 until the first chunk was given
        self.offset = 0  # the follower has this many bytes
        self.end = inf  # how many there are; known when the last chunk was given
        self.last_offset = 0  # where the chunk given last begins
        self.progressed_at = now
        self.asked_at = -inf  # when the next chunk was last asked for
        self.sending = False  # that chunk was asked for and not answered yet

    @property
    def is_active(self) -> bool:
        """Whether it has one of the few places for transfers."""
        return self.asked_at > -inf


class Progress:
    """Invariant: 0 ≤ match < next_index. Only the leader of a term has these; they die with its leadership."""

    def __init__(self, node_id: NodeId, *, next_index: int, window: Window, now: float) -> None:
        self.node_id = node_id
        self.store_id: bytes | None = None  # of the log that `match` is about; None until it has spoken
        self.boot_nonce: bytes | None = None  # of the start that it spoke in
        self.match = 0
        self.next_index = next_index
        self.state = ProgressState.PROBE
        self.window = window
        self.heard_at = now  # a new peer has one election timeout to say something
        self.probe_sent = False
        self.commit_sent = 0
        self.transfer: SnapshotTransfer | None = None

    def probe(self) -> None:
        """Forget what is in flight and ask where the logs agree."""
        self.state = ProgressState.PROBE
        self.next_index = self.match + 1
        self.probe_sent = False
        self.window.clear()
        self.transfer = None

    def replicate(self) -> None:
        self.state = ProgressState.REPLICATE
        self.next_index = self.match + 1
        self.probe_sent = False
        self.transfer = None

    def need_snapshot(self, now: float) -> None:
        self.state = ProgressState.SNAPSHOT
        self.probe_sent = False
        self.window.clear()
        self.transfer = SnapshotTransfer(now)

    def forget(self) -> None:
        """The follower's log is another one now: nothing that it acknowledged is there (rule T3)."""
        self.store_id = None
        self.match = 0
        self.commit_sent = 0
        self.probe()

    def acknowledge(self, match: int) -> bool:
        """Take note of an acknowledgement; acknowledgements may come twice and late.

        Returns:
            Whether it said something new.
        """
        self.window.acknowledge(match)
        if match <= self.match:
            return False
        self.match = match
        self.next_index = max(self.next_index, match + 1)
        return True

    def refuse(self, rejected: int, agreement: int) -> bool:
        """The follower does not have `rejected`; it may agree at `agreement`.

        Returns:
            Whether this was news. Answers to older Appends are not: what is matched stays matched.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.probe()
            return True
        if self.state is ProgressState.SNAPSHOT or rejected != self.next_index - 1 or rejected <= self.match:
            return False
        self.next_index = max(min(rejected, agreement + 1), self.match + 1)
        self.probe_sent = False
        return True
