"""Writing messages: what an application or an upstream says becomes bytes that mean one thing only.

`ResponseWriter` chooses how the body's end is told and holds the application to it; hop-by-hop fields are the
engine's alone. Nothing that comes out can hold a line that nobody meant (no CR, LF or NUL survives a header).

Source: RFC 9112 §6, RFC 9110 §7.6.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

from mesh.errors import FailedError
from mesh.http.head import field_name
from mesh.http.messages import Framing, Headers, HttpRefused, RequestHead, tokens_of

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
"""Fields that speak of one connection (RFC 9110 7.6.1); they are never taken over from an application or a peer."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class BadAnswer(FailedError):
    """The application's answer can't be put into HTTP: its fault, not the client's."""


class ResponseWriter:
    """The answer to one request: `head`, then `data` as often as need be, then `end`; `keep_alive` when all is said.

    Args:
        request: What is answered; None for a request that couldn't be read.
        keep_alive: Whether the connection may go on afterwards, if the answer allows it.
    """

    __slots__ = ("_framing", "_http_1_0", "_left", "_method", "keep_alive", "started")

    def __init__(self, request: RequestHead | None, *, keep_alive: bool) -> None:
        self._method = request.method if request is not None else "GET"
        self._http_1_0 = request.http_1_0 if request is not None else False
        self.keep_alive = keep_alive
        self.started = False
        self._framing = Framing.NONE
        self._left = 0

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, date: bytes, whole: int | None) -> bytes:
        """The status line and the fields.

        Args:
            date: The value of the Date field.
            whole: The body's size, when it is known to be all there; else None.

        Raises:
            BadAnswer: Fields that no response can have.
        """
        assert not self.started, "one response a request"
        fields, length, close = _own_fields(headers)
        if close:
            self.keep_alive = False
        if status < 200 or status in (204, 304) or self._method == "HEAD":
            self._framing = Framing.NONE
            if status == 204 or length is None:
                length = None
        elif length is not None or whole is not None:
            length = whole if length is None else length
            self._framing, self._left = Framing.LENGTH, length or 0
        elif self._http_1_0:
            self._framing, self.keep_alive = Framing.UNTIL_CLOSE, False
        else:
            self._framing = Framing.CHUNKED
            fields.append((b"transfer-encoding", b"chunked"))
        if length is not None:
            fields.append((b"content-length", b"%d" % length))
        if not any(name == b"date" for name, _ in fields):
            fields.append((b"date", date))
        if not self.keep_alive:
            fields.append((b"connection", b"close"))
        block = encode_fields(fields)
        self.started = True
        return (_STATUS_LINES.get(status) or f"HTTP/1.1 {status:03d} \r\n".encode()) + block

    def data(self, piece: bytes) -> bytes:
        """A piece of the body, framed; b"" when this response has none (HEAD, 204, 304).

        Raises:
            BadAnswer: More than the Content-Length says.
        """
        match self._framing:
            case Framing.NONE:
                return b""
            case Framing.LENGTH:
                if len(piece) > self._left:
                    raise BadAnswer("the answer is longer than its Content-Length")
                self._left -= len(piece)
                return piece
            case Framing.CHUNKED:
                return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
            case Framing.UNTIL_CLOSE:
                return piece

    def end(self) -> bytes:
        """What tells the body's end.

        Raises:
            BadAnswer: Less than the Content-Length says: the connection must be closed, so that the client notices.
        """
        if self._framing is Framing.CHUNKED:
            return b"0\r\n\r\n"
        if self._left:
            raise BadAnswer("the answer is shorter than its Content-Length")
        return b""


def _own_fields(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Headers, int | None, bool]:
    """(fields without hop-by-hop ones and length, the length, does it ask to close) of an application's headers."""
    fields: Headers = []
    length: int | None = None
    close = False
    for raw_name, value in headers:
        try:
            name = field_name(raw_name)
        except HttpRefused as error:
            raise BadAnswer("the answer has a field whose name is malformed") from error
        if name == b"content-length":
            if not value.isdigit() or length not in (None, int(value)):
                raise BadAnswer("the answer's Content-Length is not one number")
            length = int(value)
        elif name not in HOP_BY_HOP:
            fields.append((name, value))
        elif name == b"connection":
            close = close or b"close" in tokens_of([(name, value)], name)
    return fields, length, close


def encode_fields(fields: Headers) -> bytes:
    """Field lines and the empty line.

    Raises:
        BadAnswer: A value holds CR, LF or NUL: it would end its line and begin another (response splitting).
    """
    block = b"".join([b"%b: %b\r\n" % field for field in fields]) + b"\r\n"
    line_ends = len(fields) + 1
    if block.count(b"\n") != line_ends or block.count(b"\r") != line_ends or b"\0" in block:
        raise BadAnswer("the answer has a field whose value holds a line end")
    return block


def problem(status: int, title: str, *, code: str, detail: str = "", hint: str = "") -> tuple[Headers, bytes]:
    """An RFC 9457 document for errors that the engine and the ingress tell themselves: its headers and its body."""
    document = {"type": "about:blank", "title": title, "status": status, "code": code}
    if detail:
        document["detail"] = detail
    if hint:
        document["hint"] = hint
    headers = [(b"content-type", b"application/problem+json"), (b"x-content-type-options", b"nosniff")]
    return headers, json.dumps(document).encode()


def refusal(error: HttpRefused) -> tuple[int, Headers, bytes]:
    """How a refused request is answered: status, headers, body."""
    headers, body = problem(error.status, error.what, code=error.stable_code, detail=error.why)
    return error.status, headers, body


def encode_request(method: str, target: bytes, host: bytes, headers: Headers, framing: Framing, length: int) -> bytes:
    """A request's head for an upstream; framing fields are written here and taken over from nowhere.

    Args:
        headers: Without Host, hop-by-hop and framing fields.
    """
    fields: Headers = [(b"host", host)] if host else []
    fields += headers
    if framing is Framing.CHUNKED:
        fields.append((b"transfer-encoding", b"chunked"))
    elif framing is Framing.LENGTH or method in ("POST", "PUT", "PATCH"):
        fields.append((b"content-length", b"%d" % length))
    return b"%b %b HTTP/1.1\r\n" % (method.encode(), target) + encode_fields(fields)
