"""What the parts of this package speak of: heads, how a body is framed, who is at the ends, a refusal's status."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.errors import ProtocolError

Headers = list[tuple[bytes, bytes]]
"""In the order sent, names in lower case, values without surrounding whitespace."""


class Framing(Enum):
    """How the end of a body is found (RFC 9112 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until-close"  # responses alone


class Signal(Enum):
    """What a reader answers when it has nothing to hand out."""

    NEED_DATA = "need-data"  # feed it
    END = "end"  # the message is complete
    CLOSED = "closed"  # the peer closed between two messages


@dataclass(slots=True)
class RequestHead:
    """One request's head, after every check. Plain slots, not frozen: freezing costs 0.9 µs a request."""

    method: str
    target: bytes  # origin-form (or "*"): path and query as sent, whatever form the client used
    path: bytes  # as sent, percent-encoding kept
    query: bytes
    http_1_0: bool
    headers: Headers
    host: bytes  # of the absolute-form target, or else of the Host field; b"" for HTTP/1.0 without one
    keep_alive: bool
    expects_continue: bool
    framing: Framing
    content_length: int
    upgrade: bytes  # the protocol asked for, in lower case; b"" when Connection does not name it too

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field, by its lower-case name."""
        return first_value(self.headers, name)


@dataclass(slots=True)
class ResponseHead:
    """One response's head as an upstream or a daemon sent it."""

    status: int
    reason: bytes
    headers: Headers
    keep_alive: bool
    framing: Framing
    content_length: int
    upgrade: bytes

    def header(self, name: bytes) -> bytes | None:
        return first_value(self.headers, name)


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Who holds the other end of a unix socket, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a connection comes from and where it arrived."""

    scheme: str = "http"
    client: tuple[str, int] | None = None  # None for a unix socket
    server: tuple[str, int] | None = None
    peer: PeerCredentials | None = None


class HttpRefused(ProtocolError):
    """The peer broke HTTP or hit a limit: its fault, and the connection ends with it.

    `status` is the hint for the edge (RFC 9110 15.5); a client that gets a bad response ignores it.
    """

    def __init__(self, what: str, *, status: int = 400, why: str = "", hint: str = "", code: str | None = None) -> None:
        super().__init__(what, why=why, hint=hint, code=code or "protocol.http")
        self.status = status


class PeerGone(ConnectionError):
    """The other side of an HTTP connection went away in the middle; an OSError, as ASGI asks of `send`."""


def first_value(headers: Headers, name: bytes) -> bytes | None:
    for field, value in headers:
        if field == name:
            return value
    return None


def tokens_of(headers: Headers, name: bytes) -> list[bytes]:
    """The tokens of all lines of a list field, in lower case, without empty elements (RFC 9110 5.6.1)."""
    found: list[bytes] = []
    for field, value in headers:
        if field == name:
            found += [token for part in value.split(b",") if (token := part.strip(b" \t").lower())]
    return found
