"""All that a mux can be told in its constructor and all that it can say: sizes, reasons, events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from mesh.lanes import Lane

MESSAGE_BYTES_MAX = 1024 * 1024 + 1024
"""A bulk message: 1 MiB of content and its wrapping."""


class ResetReason(IntEnum):
    """Why a stream ended at once."""

    CANCELLED = 1  # the side that reset it no longer wants it
    LIMIT = 2  # too many streams, or a message over its limit
    FAILED = 3  # a tunnel's handler gave up
    PROTOCOL = 4  # the other side broke the protocol on this stream


class LinkEnd(Enum):
    """Why the mux wants the link closed."""

    SILENT = "silent"  # nothing arrived for too long
    FLOODED = "flooded"  # the peer makes us answer and does not read the answers
    DRAINED = "drained"  # both sides said GOAWAY and the last stream has ended


@dataclass(frozen=True, slots=True)
class MuxConfig:
    """Sizes of one link, and its clock; every bound has its reason in the limits of the threat model.

    Both ends must have the same windows and stream limit; they are part of the protocol, not a setting.
    """

    stream_window_bytes: int = 256 * 1024
    lane_window_bytes: int = 4 * 1024 * 1024
    streams_max: int = 256  # that one side may have open
    notices_max: int = 1024  # queued in a lane
    notice_bytes_max: int = 8 * 1024 * 1024  # queued in a lane
    urgent_frames_max: int = 4096  # replies to the peer that wait to be sent; more means it never reads
    keepalive_s: float = 2.0  # silence after which we ask
    measure_every_s: float = 10.0  # round trips are measured at least this often, busy or not
    silence_s: float = 6.0  # silence after which the link is dead: three times asked
    overslept_s: float = (
        1.0  # woken this much too late, it was us who slept, and silence proves nothing (fault P3)
    )


ANSWERING_S = 3.0
"""A peer that was silent on its link for longer has been asked, after `MuxConfig.keepalive_s`, and did not answer."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    stream: int
    lane: Lane
    header: bytes


@dataclass(frozen=True, slots=True)
class StreamData:
    stream: int
    payload: bytes
    more: bool  # the message goes on
    end: bool  # the peer sends nothing further on this stream


@dataclass(frozen=True, slots=True)
class StreamReset:
    stream: int
    reason: int  # a ResetReason, or one that a later version made up


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """What was sent on the stream has left the queue."""

    stream: int


@dataclass(frozen=True, slots=True)
class NoticeReceived:
    lane: Lane
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerRetired:
    """The peer opens no more streams here."""


@dataclass(frozen=True, slots=True)
class CloseWanted:
    reason: LinkEnd


MuxEvent = (
    StreamOpened | StreamData | StreamReset | StreamWritable | NoticeReceived | PeerRetired | CloseWanted
)


@dataclass(frozen=True, slots=True)
class MuxStatistics:
    streams: int
    queued_bytes: int
    rtt_s: float  # smoothed; inf before the first measurement
    retiring: bool
