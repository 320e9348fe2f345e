"""HTTP/1.1 as two reading machines: bytes in, heads and pieces of bodies out. No socket, no clock.

`RequestReader` is a server's side, `ResponseReader` a client's. Both are pulled: the shell asks for the next thing,
is told NEED_DATA, reads, feeds, asks again. Nothing is parsed before it is asked for, so an unanswered request is
never followed by the parsing of the next: that bounds pipelining, and leaves an upgraded connection its first bytes.

A refusal is final: after it every call raises the same again, and the connection has to be closed (attack 26).

Source: RFC 9112; the pull shape is h11's `next_event`.
"""

from __future__ import annotations

from enum import Enum

from mesh.http.body import NO_BODY, Body, Inbox, body_of
from mesh.http.head import LENGTH_MAX, check_partial_head, parse_request_head, parse_response_head
from mesh.http.limits import HttpLimits
from mesh.http.messages import HttpRefused, PeerGone, RequestHead, ResponseHead, Signal


class _State(Enum):
    HEAD = "head"
    BODY = "body"
    DONE = "done"  # the message is complete; a server answers it before it asks for the next
    FAILED = "failed"


class _Reader:
    """What both sides share: the inbox, the search for a head's end, the body."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._inbox = Inbox()
        self._state = _State.HEAD
        self._body: Body = NO_BODY
        self._checked = 0
        self._passed_over = False  # the one empty line before a head
        self.failure: HttpRefused | PeerGone | None = None

    def receive(self, piece: bytes) -> None:
        """Feed what the peer sent; b"" when it has closed its side."""
        self._inbox.feed(piece)

    @property
    def complete(self) -> bool:
        """Has the current message been read to its end?"""
        return self._state is _State.DONE

    @property
    def remaining(self) -> int | None:
        """Bytes of the current body not read yet; None when only its end will tell."""
        return self._body.remaining

    @property
    def unread(self) -> int:
        """Bytes received and not handed out."""
        return len(self._inbox.bytes_held)

    @property
    def ended(self) -> bool:
        """Has the peer closed its side?"""
        return self._inbox.ended

    @property
    def failed(self) -> bool:
        """Has something been refused? `failure` tells what."""
        return self._state is _State.FAILED

    def next_body(self) -> bytes | Signal:
        """The next piece of the current body, END after the last, or NEED_DATA.

        Raises:
            HttpRefused: The framing is broken or a limit was hit; final.
            PeerGone: The peer closed before the end; final.
        """
        if self.failure is not None:
            raise self.failure
        if self._state is _State.DONE:
            return Signal.END
        assert self._state is _State.BODY, "a body follows a head"
        try:
            piece = self._body.next(self._inbox)
        except (HttpRefused, PeerGone) as error:
            raise self.fail(error) from None
        if piece is Signal.END or self._body.remaining == 0:
            self._state = _State.DONE
        return piece

    def fail(self, error: HttpRefused | PeerGone) -> HttpRefused | PeerGone:
        """Make this the answer to every later call; the shell says so of a peer that is too slow."""
        self.failure = error
        self._state = _State.FAILED
        return error

    def take_rest(self) -> bytes:
        """Everything received beyond the current message: the first bytes of an upgraded connection."""
        return self._inbox.take(len(self._inbox.bytes_held))

    def _cut_head(self) -> bytes | Signal:
        """The next head with its empty line; one empty line before it is passed over (RFC 9112 2.2)."""
        held = self._inbox.bytes_held
        if self._checked == 0 and not self._passed_over and held.startswith(b"\r\n"):
            self._passed_over = True
            del held[:2]
        end = held.find(b"\r\n\r\n", max(0, self._checked - 3))
        if end >= 0:
            self._checked = 0
            self._passed_over = False
            return self._inbox.take(end + 4)
        if held != b"\r":  # the first half of the empty line that is passed over
            check_partial_head(held, self._checked, self._limits)
            self._checked = len(held)
        if not self._inbox.ended:
            return Signal.NEED_DATA
        if held:
            raise PeerGone("the connection ended in the middle of a head")
        return Signal.CLOSED


class RequestReader(_Reader):
    """A server's reading side of one connection."""

    def next_request(self) -> RequestHead | Signal:
        """The next request's head; NEED_DATA, or CLOSED when the client is done.

        Raises:
            HttpRefused: With the status to answer; final.
            PeerGone: The client closed inside a head; final.
        """
        if self.failure is not None:
            raise self.failure
        assert self._state in (_State.HEAD, _State.DONE), "the current request has not been read to its end"
        self._state = _State.HEAD
        try:
            head = self._cut_head()
            if isinstance(head, Signal):
                return head
            request = parse_request_head(head, self._limits)
        except (HttpRefused, PeerGone) as error:
            raise self.fail(error) from None
        self._body = body_of(request.framing, request.content_length, self._limits, self._limits.body_bytes_max)
        self._state = _State.DONE if self._body is NO_BODY else _State.BODY
        return request


class ResponseReader(_Reader):
    """A client's reading side of one connection."""

    def next_response(self, method: str) -> ResponseHead | Signal:
        """The head of the response to a request of this method; informational ones (1xx) come first, each by a call.

        Raises:
            HttpRefused: The server's fault; final.
            PeerGone: The server closed inside a head; final.
        """
        if self.failure is not None:
            raise self.failure
        assert self._state in (_State.HEAD, _State.DONE), "the current response has not been read to its end"
        self._state = _State.HEAD
        try:
            head = self._cut_head()
            if isinstance(head, Signal):
                return head
            response = parse_response_head(head, method, self._limits)
        except (HttpRefused, PeerGone) as error:
            raise self.fail(error) from None
        self._body = body_of(response.framing, response.content_length, self._limits, LENGTH_MAX)
        self._state = _State.DONE if self._body is NO_BODY else _State.BODY
        return response
