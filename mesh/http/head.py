"""Heads of requests and responses: llhttp splits the lines, and what it lets pass is refused here.

Two parsers that disagree are how requests are smuggled (attacks 26 and 27), so this one is fed exactly one head,
cut at its empty line, and refuses on doubt: bare CR or LF, control bytes, folded lines, whitespace round a name, no
or two or senseless Hosts, lengths and codings that contradict each other. What is handed on is canonical.

httptools 0.9 alone accepts no Host, two Hosts, any Host value, HTTP/2.0, heads and extensions of a megabyte.

Source: RFC 9112 §2–6, RFC 9110 §5–7, RFC 3986 §3; the cases of `tests/conformance/test_http_ws.py`.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import httptools

from mesh.http.limits import HttpLimits
from mesh.http.messages import Framing, Headers, HttpRefused, RequestHead, ResponseHead, tokens_of

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_NAME = re.compile(TOKEN)
_ALLOWED_IN_HEAD = bytes([9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0x100)])
_BAD_IN_PARTIAL_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|(?<!\r)\n")

_HOST = re.compile(rb"([A-Za-z0-9._\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
"""A narrower reg-name than RFC 3986 has: sub-delims and percent-encoding are legal there and mean only mischief."""

_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)")
_PATH = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/|]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(rb"[!$-;=?-~]*")
"""What browsers leave unescaped in a query is let through (braces, bar, caret); quotes, <, > and # are not."""

_DIGITS = re.compile(rb"[0-9]{1,4096}")
LENGTH_MAX = 2**63 - 1


class _Lines:
    """llhttp's callbacks for one head."""

    __slots__ = ("fields", "url")

    def __init__(self) -> None:
        self.fields: Headers = []
        self.url = b""

    def on_url(self, part: bytes) -> None:
        self.url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def check_partial_head(received: bytearray, checked: int, limits: HttpLimits) -> None:
    """Refuse what cannot become a head any more, so that nobody waits for its end.

    Args:
        received: All of the head that came so far.
        checked: How much of it an earlier call has seen: a head sent byte by byte isn't searched anew each time.

    Raises:
        HttpRefused: Forbidden bytes, or a line or head over its limit.
    """
    line_end = received.find(b"\r\n", 0, limits.request_line_bytes_max + 2)
    if line_end < 0 and len(received) > limits.request_line_bytes_max:
        raise _line_too_long(limits)
    if len(received) > limits.head_bytes_max:
        raise _head_too_long(limits)
    if _BAD_IN_PARTIAL_HEAD.search(received, max(0, checked - 1)):
        raise HttpRefused("the request's head holds a bare CR or LF, or a control byte")


def parse_request_head(head: bytes, limits: HttpLimits) -> RequestHead:
    """One request from its whole head, the empty line included.

    Raises:
        HttpRefused: With the status to answer; the connection cannot be used any further.
    """
    _check_bytes(head, limits)
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise HttpRefused("the request line is malformed")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise HttpRefused("this server speaks HTTP/1.1 and HTTP/1.0", status=505)
    lines = _Lines()
    parser = httptools.HttpRequestParser(lines)
    _feed(parser, head)
    if lines.url != target:
        raise HttpRefused("the request line is malformed")
    http_1_0 = minor == b"0"
    headers = _canonical(lines.fields)
    host = _only_host(headers, http_1_0)
    host, path, query = _target(method, target, host)
    framing, length = _request_framing(headers, http_1_0, limits)
    connection = tokens_of(headers, b"connection")
    expectation = _single(headers, b"expect", b"").lower()
    if expectation and not http_1_0 and expectation != b"100-continue":
        raise HttpRefused("this expectation cannot be met", status=417)
    return RequestHead(
        method=method.decode(),
        target=path + b"?" + query if b"?" in target else path,
        path=path,
        query=query,
        http_1_0=http_1_0,
        headers=headers,
        host=host,
        keep_alive=not http_1_0 and b"close" not in connection,
        expects_continue=bool(expectation) and not http_1_0 and framing is not Framing.NONE,
        framing=framing,
        content_length=length,
        upgrade=_upgrade(headers, connection) if not http_1_0 else b"",
    )


def parse_response_head(head: bytes, method: str, limits: HttpLimits) -> ResponseHead:
    """One response from its whole head; `method` is the request's, for a HEAD has no body (RFC 9112 6.3).

    Raises:
        HttpRefused: The upstream's fault; nothing of it may be passed on.
    """
    _check_bytes(head, limits)
    line = _STATUS_LINE.match(head)
    if line is None:
        raise HttpRefused("the status line is malformed")
    minor, status_text, reason = line.groups()
    status = int(status_text)
    headers = _canonical(_split_fields(head[line.end() : -2]))
    connection = tokens_of(headers, b"connection")
    framing, length = _response_framing(headers, status, method, minor == b"0")
    keep_alive = framing is not Framing.UNTIL_CLOSE and b"close" not in connection
    if minor == b"0":
        keep_alive = keep_alive and b"keep-alive" in connection
    upgrade = _upgrade(headers, connection) if status == 101 else b""
    return ResponseHead(status, reason or b"", headers, keep_alive, framing, length, upgrade)


@lru_cache(maxsize=512)
def _short_name(name: bytes) -> bytes:
    if not _NAME.fullmatch(name):
        raise HttpRefused("a field's name is malformed")
    return name.lower()


def field_name(name: bytes) -> bytes:
    """A field's name in lower case.

    The common ones are looked up: matching each costs three times as much. Long ones are not kept, for they are a
    stranger's choice.

    Raises:
        HttpRefused: Not a token (RFC 9110 5.6.2).
    """
    return _short_name(name) if len(name) <= 40 else _short_name.__wrapped__(name)


def valid_host(host: bytes) -> bool:
    """Is this a host with an optional port that somebody could have meant?"""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match.group(1)
    if not name.startswith(b"["):
        return True
    try:
        ipaddress.IPv6Address(name[1:-1].decode())
    except ValueError:
        return False
    return True


def _check_bytes(head: bytes, limits: HttpLimits) -> None:
    """The tests that need no parsing; each is one pass in C over a few hundred bytes."""
    if len(head) > limits.head_bytes_max:
        raise _head_too_long(limits)
    if head.find(b"\r\n") > limits.request_line_bytes_max:
        raise _line_too_long(limits)
    line_ends = head.count(b"\r\n")
    if head.count(b"\r") != line_ends or head.count(b"\n") != line_ends:
        raise HttpRefused("the head holds a bare CR or LF")
    if head.translate(None, _ALLOWED_IN_HEAD):
        raise HttpRefused("the head holds a control byte")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise HttpRefused("the head holds a folded line, or one that begins with whitespace")
    if line_ends - 2 > limits.fields_max:
        raise HttpRefused(
            "the request has too many fields", status=431, why=f"the limit is {limits.fields_max}", code="limit.fields"
        )


def _feed(parser: httptools.HttpRequestParser, head: bytes) -> None:
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        return  # it stops where we cut anyway; whether anything is upgraded is the server's decision
    except httptools.HttpParserInvalidMethodError as error:
        raise HttpRefused("this method is not known here", status=501) from error
    except httptools.HttpParserError as error:
        raise HttpRefused("the request's head is malformed", why=str(error)) from error


def _split_fields(block: bytes) -> Headers:
    """The field lines of a response; llhttp's response parser gives no offset, so that here we split ourselves."""
    fields: Headers = []
    for line in block.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise HttpRefused("a field line has no colon")
        fields.append((name, value))
    return fields


def _canonical(fields: Headers) -> Headers:
    return [(field_name(name), value.strip(b" \t")) for name, value in fields]


def _only_host(headers: Headers, http_1_0: bool) -> bytes:
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts and http_1_0:
        return b""
    if len(hosts) != 1:
        raise HttpRefused("a request has exactly one Host field")
    if not valid_host(hosts[0]):
        raise HttpRefused("the Host field's value is no host")
    return hosts[0]


def _target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes, bytes]:
    """(host, path, query) of a request target (RFC 9112 3.2)."""
    if method in (b"CONNECT", b"TRACE"):  # no proxy; and a page shall not read back what its browser keeps from it
        raise HttpRefused("this method is not spoken here", status=501)
    if target == b"*":
        if method != b"OPTIONS":
            raise HttpRefused("only OPTIONS may ask for *")
        return host, target, b""
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not valid_host(absolute.group(1)):
            raise HttpRefused("the request target is malformed")
        if host and absolute.group(1).lower() != host.lower():
            raise HttpRefused("the request target and the Host field name different hosts")
        host, target = absolute.groups()
        if not target.startswith(b"/"):
            target = b"/" + target
    path, _, query = target.partition(b"?")
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        raise HttpRefused("the request target holds what no URI may")
    return host, path, query


def _request_framing(headers: Headers, http_1_0: bool, limits: HttpLimits) -> tuple[Framing, int]:
    """How the body's end is found, or a refusal: nothing may be ambiguous here (RFC 9112 6.1, 6.3)."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if lengths:
            raise HttpRefused("a request has a Content-Length or a Transfer-Encoding, not both")
        if http_1_0:
            raise HttpRefused("HTTP/1.0 knows no Transfer-Encoding")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise HttpRefused("chunked, once, is the only transfer coding known here", status=501)
        return Framing.CHUNKED, 0
    if not lengths:
        return Framing.NONE, 0
    length = _length(lengths)
    if length > limits.body_bytes_max:
        raise body_too_large(limits)
    return (Framing.LENGTH, length) if length else (Framing.NONE, 0)


def _response_framing(headers: Headers, status: int, method: str, http_1_0: bool) -> tuple[Framing, int]:
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (lengths or http_1_0 or len(codings) != 1 or codings[0].lower() != b"chunked"):
        raise HttpRefused("the response's framing is ambiguous")
    length = _length(lengths) if lengths else 0
    if method == "HEAD" or status < 200 or status in (204, 304):
        return Framing.NONE, length
    if codings:
        return Framing.CHUNKED, 0
    if lengths:
        return (Framing.LENGTH, length) if length else (Framing.NONE, 0)
    return Framing.UNTIL_CLOSE, 0


def _length(values: list[bytes]) -> int:
    if len(values) != 1 or not _DIGITS.fullmatch(values[0]):
        raise HttpRefused("the Content-Length is not one number")
    digits = values[0].lstrip(b"0")
    if len(digits) > 19 or (length := int(digits or b"0")) > LENGTH_MAX:
        raise HttpRefused("the Content-Length is not one that anybody could send", status=413)
    return length


def body_too_large(limits: HttpLimits) -> HttpRefused:
    return HttpRefused(
        "the body is too large", status=413, why=f"the limit is {limits.body_bytes_max} bytes", code="limit.body"
    )


def _line_too_long(limits: HttpLimits) -> HttpRefused:
    why = f"the limit is {limits.request_line_bytes_max} bytes"
    return HttpRefused("the request line is too long", status=414, why=why, code="limit.request-line")


def _head_too_long(limits: HttpLimits) -> HttpRefused:
    why = f"the limit is {limits.head_bytes_max} bytes"
    return HttpRefused("the head is too large", status=431, why=why, code="limit.head")


def _single(headers: Headers, name: bytes, default: bytes) -> bytes:
    values = [value for field, value in headers if field == name]
    if len(values) > 1:
        raise HttpRefused(f"the field {name.decode()} may stand once")
    return values[0] if values else default


def _upgrade(headers: Headers, connection: list[bytes]) -> bytes:
    if b"upgrade" not in connection:
        return b""
    wanted = tokens_of(headers, b"upgrade")
    return wanted[0] if len(wanted) == 1 else b""
