"""What became of each request: one record for every one, kept in bounded rings, summed for ever.

Failures have a ring of their own, so that a busy hour of successes doesn't push out the one that somebody asks about.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum

from mesh.names import NodeId

RECENT_MAX = 1_000
FAILED_MAX = 2_000


class End(Enum):
    """How a request ended, as its client could tell."""

    SERVED = "served"
    UPGRADED = "upgraded"  # a WebSocket, and it is over
    NO_APP = "no-app"
    NO_REPLICA = "no-replica"
    BUSY = "busy"
    UNREACHABLE = "unreachable"  # no replica took the connection: nothing was done
    NO_ANSWER = "no-answer"  # sent, and nothing came back: it may have been done
    TIMED_OUT = "timed-out"
    BAD_ANSWER = "bad-answer"
    BROKEN = "broken"  # torn after the response had begun
    CLIENT_GONE = "client-gone"
    REFUSED = "refused"  # the client broke HTTP or a limit
    CUT = "cut"  # this ingress itself ended or failed


FINE = frozenset((End.SERVED, End.UPGRADED))


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request's account."""

    at_ms: int
    app: str
    method: str
    replica_id: str  # the last one asked; "" for none
    node: NodeId | None
    status: int  # as the client saw it; 0: it saw none
    bytes_sent: int  # of the response's body
    tries: int  # replicas it was sent to or tried to be
    retries: int  # of those, after bytes had been written
    duration_s: float
    end: End
    detail: str = ""
    request_id: str = ""  # the client's own X-Request-Id, by which it finds this account again


@dataclass(frozen=True, slots=True)
class IngressStatistics:
    """Sums since the start, but for `in_flight`."""

    requests: int
    in_flight: int
    retries: int
    connect_failures: int
    bytes_sent: int
    ends: tuple[tuple[str, int], ...]


class Accounts:
    """The log and its sums."""

    def __init__(self, *, recent_max: int = RECENT_MAX, failed_max: int = FAILED_MAX) -> None:
        self._recent: deque[RequestRecord] = deque(maxlen=recent_max)
        self._failed: deque[RequestRecord] = deque(maxlen=failed_max)
        self._ends: Counter[End] = Counter()
        self._bytes_sent = 0
        self._retries = 0
        self._connect_failures = 0
        self._in_flight = 0

    def begin(self) -> None:
        self._in_flight += 1

    def end(self, record: RequestRecord) -> None:
        """Close one request's account."""
        self._in_flight -= 1
        self._ends[record.end] += 1
        self._bytes_sent += record.bytes_sent
        self._retries += record.retries
        self._connect_failures += max(0, record.tries - record.retries - 1)
        self._recent.append(record)
        if record.end not in FINE or record.status >= 500:
            self._failed.append(record)

    def recent(self) -> tuple[RequestRecord, ...]:
        """The last requests, oldest first."""
        return tuple(self._recent)

    def failed(self) -> tuple[RequestRecord, ...]:
        """The last that were not served, or served with an error of the app's own, oldest first."""
        return tuple(self._failed)

    def statistics(self) -> IngressStatistics:
        return IngressStatistics(
            requests=sum(self._ends.values()),
            in_flight=self._in_flight,
            retries=self._retries,
            connect_failures=self._connect_failures,
            bytes_sent=self._bytes_sent,
            ends=tuple(sorted((end.value, count) for end, count in self._ends.items())),
        )
