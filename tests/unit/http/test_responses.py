"""What an answer looks like on the wire, and what can't be one."""

from __future__ import annotations

import pytest

from mesh.http.head import parse_request_head
from mesh.http.limits import DEFAULT_LIMITS
from mesh.http.messages import Framing
from mesh.http.responses import BadAnswer, ResponseWriter, encode_request

DATE = b"Thu, 01 Jan 1970 00:00:00 GMT"


def writer_for(method: bytes = b"GET", version: bytes = b"1.1", *, keep_alive: bool = True) -> ResponseWriter:
    head = method + b" / HTTP/" + version + b"\r\nHost: h\r\n\r\n"
    return ResponseWriter(parse_request_head(head, DEFAULT_LIMITS), keep_alive=keep_alive)


def written(writer: ResponseWriter, status: int, headers: list[tuple[bytes, bytes]], *pieces: bytes) -> bytes:
    out = writer.head(status, headers, date=DATE, whole=None)
    return out + b"".join(writer.data(piece) for piece in pieces) + writer.end()


def test_a_body_of_unknown_length_goes_in_chunks() -> None:
    assert written(writer_for(), 200, [], b"ab", b"", b"c") == (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ndate: " + DATE + b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    )


def test_a_body_of_known_length_goes_as_it_is() -> None:
    assert written(writer_for(), 200, [(b"Content-Length", b"2")], b"ab").endswith(b"\r\n\r\nab")


def test_an_old_client_gets_the_body_until_the_connection_ends() -> None:
    writer = writer_for(version=b"1.0", keep_alive=False)
    assert written(writer, 200, [], b"ab").endswith(b"connection: close\r\n\r\nab")


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_answers_without_a_body_have_none_whatever_the_application_sends(method: bytes, status: int) -> None:
    assert written(writer_for(method), status, [], b"body").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("pieces", [(b"a",), (b"abc",)])
def test_an_application_is_held_to_its_content_length(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(BadAnswer):
        written(writer_for(), 200, [(b"content-length", b"2")], *pieces)


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\0"),
        (b"x y", b"1"),
        (b"", b"1"),
        (b"x\r\ny", b"1"),
        (b"content-length", b"1, 2"),
    ],
)
def test_no_answer_can_hold_a_line_that_nobody_meant(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(BadAnswer):
        writer_for().head(200, [header], date=DATE, whole=None)


def test_fields_of_the_connection_are_the_engines_alone() -> None:
    writer = writer_for()
    headers = [(b"Transfer-Encoding", b"gzip"), (b"Keep-Alive", b"1"), (b"Upgrade", b"x"), (b"Connection", b"close")]
    out = written(writer, 200, headers, b"a")
    assert b"gzip" not in out and b"keep-alive" not in out and b"upgrade" not in out
    assert not writer.keep_alive


def test_a_request_for_an_upstream_says_its_framing_once() -> None:
    assert encode_request("POST", b"/x", b"h", [(b"a", b"1")], Framing.LENGTH, 3) == (
        b"POST /x HTTP/1.1\r\nhost: h\r\na: 1\r\ncontent-length: 3\r\n\r\n"
    )
    assert encode_request("GET", b"/", b"h", [], Framing.NONE, 0) == b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
    assert encode_request("POST", b"/", b"h", [], Framing.NONE, 0).endswith(b"content-length: 0\r\n\r\n")
