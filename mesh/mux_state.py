"""What a mux remembers of each stream and each lane."""

from __future__ import annotations

from collections import deque

from mesh.errors import ProtocolError
from mesh.lanes import Lane
from mesh.mux_events import MuxConfig
from mesh.notices import Notices

# In place of flags in a stream's queue: its opening, and its end by a reset that waits for its turn.
OPEN_MARK = -1
RESET_MARK = -2


class StreamState:
    """One stream, both directions of it."""

    __slots__ = (
        "discards",
        "end_received",
        "end_sent",
        "lane",
        "owed_bytes",
        "queue",
        "queued_bytes",
        "receive_window",
        "scheduled",
        "send_ended",
        "send_window",
        "unread_bytes",
        "watched",
    )

    def __init__(self, lane: Lane, window_bytes: int) -> None:
        self.lane = lane
        self.send_window = window_bytes
        self.receive_window = window_bytes
        self.queue: deque[tuple[memoryview, int]] = deque()  # (payload, flags)
        self.queued_bytes = 0
        self.unread_bytes = 0  # received, and not consumed by the reader
        self.owed_bytes = 0  # consumed, and not credited to the peer yet
        self.send_ended = False  # an END is queued or sent
        self.end_sent = False
        self.end_received = False
        self.scheduled = False  # stands in its lane's turn order
        self.watched = False  # someone waits for its queue to empty
        self.discards = False  # its user is gone; only what is queued still matters

    @property
    def is_over(self) -> bool:
        """Both sides have sent their end."""
        return self.end_sent and self.end_received


class LaneState:
    """One lane: its window, its notices, and whose turn it is."""

    def __init__(self, lane: Lane, config: MuxConfig) -> None:
        self._window_bytes = config.lane_window_bytes
        self._receive_window = config.lane_window_bytes
        self._owed_bytes = 0
        self.send_window = config.lane_window_bytes
        self.notices = Notices(lane, config)
        self.turn: deque[int] = deque()  # streams with something to send, next first
        self.blocked: dict[int, None] = {}  # streams that wait for the lane's window, in order

    def use(self, count: int) -> None:
        """The peer has sent that many bytes on one of the lane's streams."""
        if count > self._receive_window:
            raise ProtocolError("the peer sent more than it may", why="a lane's window was overrun")
        self._receive_window -= count

    def give_back(self, count: int) -> int:
        """That many bytes are done with; the credit to be sent to the peer now, often 0."""
        self._owed_bytes += count
        # A quarter at a time; less when the peer has less than that left, or streams that nobody reads could hold
        # all of the window but what is owed here, and the living ones would wait for ever.
        if self._owed_bytes < min(self._window_bytes // 4, max(self._receive_window, 1)):
            return 0
        credit, self._owed_bytes = self._owed_bytes, 0
        self._receive_window += credit
        return credit
