"""The server's reading machine, as a dialogue: bytes in, heads and bodies out."""

from __future__ import annotations

import pytest

from mesh.http.http1 import RequestReader
from mesh.http.limits import HttpLimits
from mesh.http.messages import HttpRefused, PeerGone, RequestHead, Signal

LIMITS = HttpLimits(body_bytes_max=1000)


def reader_of(*pieces: bytes, limits: HttpLimits = LIMITS) -> RequestReader:
    reader = RequestReader(limits)
    for piece in pieces:
        reader.receive(piece)
    return reader


def request_of(text: bytes) -> RequestHead:
    request = reader_of(text).next_request()
    assert isinstance(request, RequestHead)
    return request


def body_of(reader: RequestReader) -> bytes:
    body = b""
    while isinstance(piece := reader.next_body(), bytes):
        body += piece
    assert piece is Signal.END
    return body


def refused(text: bytes, limits: HttpLimits = LIMITS) -> HttpRefused:
    reader = reader_of(text, limits=limits)
    with pytest.raises(HttpRefused) as caught:
        while True:
            if reader.next_request() is Signal.NEED_DATA:
                pytest.fail("not refused")
            while reader.next_body() not in (Signal.END, Signal.NEED_DATA):
                continue
    return caught.value


def test_a_request_is_told_with_canonical_names_and_trimmed_values() -> None:
    request = request_of(b"GET /a%20b?x=1 HTTP/1.1\r\nHost: h.test:80\r\nX-Odd:\t v \t\r\n\r\n")
    assert (request.method, request.path, request.query) == ("GET", b"/a%20b", b"x=1")
    assert request.headers == [(b"host", b"h.test:80"), (b"x-odd", b"v")]
    assert request.host == b"h.test:80"
    assert request.keep_alive


def test_the_next_request_is_not_parsed_before_it_is_asked_for() -> None:
    reader = reader_of(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nthis is no request at all\r\n\r\n")
    request = reader.next_request()
    assert isinstance(request, RequestHead) and reader.complete
    with pytest.raises(HttpRefused):
        reader.next_request()


def test_a_refusal_is_final_even_when_a_good_request_follows() -> None:
    reader = reader_of(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(HttpRefused) as first:
        reader.next_request()
    reader.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    with pytest.raises(HttpRefused) as second:
        reader.next_request()
    assert second.value is first.value


def test_a_body_ends_where_its_length_says_and_the_rest_stays() -> None:
    reader = reader_of(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcdef")
    reader.next_request()
    assert body_of(reader) == b"abc"
    assert reader.take_rest() == b"def"


def test_chunks_are_joined_and_trailers_and_extensions_dropped() -> None:
    reader = reader_of(
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b'2;a="b"\r\nab\r\n1\r\nc\r\n0\r\nX-Sum: 1\r\n\r\nGET',
    )
    reader.next_request()
    assert body_of(reader) == b"abc"
    assert reader.unread == 3


def test_a_client_that_leaves_between_requests_has_finished() -> None:
    assert reader_of(b"").next_request() is Signal.CLOSED


@pytest.mark.parametrize("torn", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: h\r\n"])
def test_a_client_that_leaves_inside_a_head_is_gone(torn: bytes) -> None:
    with pytest.raises(PeerGone):
        reader_of(torn, b"").next_request()


def test_a_body_that_breaks_off_is_never_taken_for_whole() -> None:
    reader = reader_of(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabc", b"")
    reader.next_request()
    assert reader.next_body() == b"abc"
    with pytest.raises(PeerGone):
        reader.next_body()
    with pytest.raises(PeerGone):
        reader.next_body()


HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, "limit.request-line"),
        (HEAD + b"X: " + b"a" * 33_000 + b"\r\n\r\n", 431, "limit.head"),
        (HEAD + b"X: 1\r\n" * 101 + b"\r\n", 431, "limit.fields"),
        (HEAD + b"Content-Length: 1001\r\n\r\n", 413, "limit.body"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n", 413, "limit.body"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 256 + b"\r\na\r\n", 413, "limit.chunk-extension"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: 1\r\n" * 2000 + b"\r\n", 431, "limit.trailer"),
    ],
)
def test_each_limit_is_refused_by_its_name(text: bytes, status: int, code: str) -> None:
    error = refused(text)
    assert (error.status, error.stable_code) == (status, code)


@pytest.mark.parametrize("size", [8 * 1024, 8 * 1024 + 1])
def test_a_request_line_may_have_exactly_eight_kibibytes(size: int) -> None:
    line = b"GET /" + b"a" * (size - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"
    assert len(line) == size
    reader = reader_of(line + b"\r\nHost: h\r\n\r\n")
    if size > 8 * 1024:
        with pytest.raises(HttpRefused):
            reader.next_request()
    else:
        assert isinstance(reader.next_request(), RequestHead)


@pytest.mark.parametrize(
    "chunks",
    [
        b"3\r\nabcXX0\r\n\r\n",
        b"2\r\nabc\r\n",
        b"4\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
    ],
)
def test_a_chunk_is_as_long_as_its_size_says(chunks: bytes) -> None:
    assert refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks).status == 400


def test_many_small_extensions_are_too_much_together() -> None:
    body = b"".join(b"1;" + b"e" * 200 + b"\r\na\r\n" for _ in range(100))
    error = refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert error.stable_code == "limit.chunk-extension"


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [:::]\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x001\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        b"GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_on_doubt_a_request_is_refused(text: bytes) -> None:
    assert refused(text).status == 400


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
    ],
)
def test_what_is_not_spoken_here_has_its_own_status(text: bytes, status: int) -> None:
    assert refused(text).status == status


def test_what_cannot_become_a_head_is_refused_before_its_end() -> None:
    for start in (b"\x16\x03\x01", b"GET / HTTP/1.1\nHost", b"GET / HTTP/1.1\r\nHost: a\rb"):
        with pytest.raises(HttpRefused):
            reader_of(start).next_request()


def test_a_head_in_single_bytes_reads_as_in_one_piece() -> None:
    text = b"\r\nPOST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    reader = RequestReader(LIMITS)
    request: RequestHead | Signal = Signal.NEED_DATA
    body = b""
    for at in range(len(text)):
        reader.receive(text[at : at + 1])
        if request is Signal.NEED_DATA:
            request = reader.next_request()
        if isinstance(request, RequestHead):
            while isinstance(piece := reader.next_body(), bytes):
                body += piece
    assert reader.complete and body == b"hi"


def test_an_absolute_target_is_served_by_its_path() -> None:
    request = request_of(b"GET HTTP://a.test/x?y HTTP/1.1\r\nHost: A.test\r\n\r\n")
    assert (request.host, request.target) == (b"a.test", b"/x?y")


def test_old_clients_are_not_kept_and_expect_nothing() -> None:
    fields = b"Connection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 1\r\n"
    request = request_of(b"POST / HTTP/1.0\r\n" + fields + b"\r\n")
    assert not request.keep_alive and not request.expects_continue
