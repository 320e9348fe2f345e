"""WebSocket (RFC 6455) as a machine over wsproto: bytes in, whole messages and bytes to send out. A server's side.

wsproto frames and checks; added here are the strict handshake, the size of a message (judged by a frame's header,
before memory is taken for its payload) and the answers that a protocol owes by itself: pong, close.
Absent: compression (it makes one byte into a thousand) and every other extension.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from mesh.http.messages import Framing, Headers, RequestHead, tokens_of

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ABNORMAL = 1006
"""What an application is told when the connection ended without a close frame; never on the wire."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The conversation's end as the other side told it."""

    code: int
    reason: str


Received = str | bytes | Closed


def handshake_fault(request: RequestHead) -> str:
    """What is wrong with an opening handshake, or "" (RFC 6455 4.2.1)."""
    versions = [value for name, value in request.headers if name == b"sec-websocket-version"]
    keys = [value for name, value in request.headers if name == b"sec-websocket-key"]
    if request.method != "GET" or request.framing is not Framing.NONE:
        return "a WebSocket is opened by a GET without content"
    if versions != [b"13"]:
        return "this server speaks WebSocket version 13"
    if len(keys) != 1 or not _is_key(keys[0]):
        return "Sec-WebSocket-Key is not sixteen bytes in base64"
    return ""


def subprotocols(request: RequestHead) -> list[str]:
    """What the client offers, in its order and its case."""
    offers = [value for name, value in request.headers if name == b"sec-websocket-protocol"]
    return [name for value in offers for part in value.split(b",") if (name := part.strip().decode("latin-1"))]


def accept_headers(request: RequestHead) -> Headers:
    """The fields of the 101 answer, without subprotocol and without any extension."""
    key = request.header(b"sec-websocket-key") or b""
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", base64.b64encode(digest)),
    ]


def asks_for_websocket(request: RequestHead) -> bool:
    """Does this request want to become a WebSocket, rightly or wrongly?"""
    return request.upgrade == b"websocket" and b"upgrade" in tokens_of(request.headers, b"connection")


class WebSocketMachine:
    """One conversation after its handshake.

    Args:
        message_bytes_max: A message of more ends it with 1009, as does a frame that announces more.
    """

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._frames = Connection(ConnectionType.SERVER, extensions=[_SizeGuard(message_bytes_max)])
        self._parts: list[Any] = []
        self._parts_bytes = 0
        self._outgoing = bytearray()
        self._received: list[Received] = []
        self._over = False

    @property
    def over(self) -> bool:
        """Nothing of the other side is listened to any more: it closed, or it broke the protocol."""
        return self._over

    @property
    def may_send(self) -> bool:
        return self._frames.state is ConnectionState.OPEN

    def receive(self, piece: bytes) -> None:
        """Feed what came; b"" when the connection ended. What it means is in `take_received` and `take_outgoing`."""
        if self._over:
            return
        if not piece:
            self._end(Closed(ABNORMAL, ""))
            return
        self._frames.receive_data(piece)
        self._take_events()

    def _take_events(self) -> None:
        for event in self._frames.events():
            match event:
                case TextMessage() | BytesMessage():
                    self._take_part(event)
                case Ping() if self.may_send:
                    self._outgoing += self._frames.send(event.response())
                case CloseConnection():
                    self._take_close(event)
                case _:
                    pass  # a pong has done its work by coming
            if self.over:
                return

    def take_received(self) -> list[Received]:
        """The messages since the last call, in order; a `Closed` is the last of all."""
        received, self._received = self._received, []
        return received

    def take_outgoing(self) -> bytes:
        """What is owed to the other side."""
        outgoing, self._outgoing = bytes(self._outgoing), bytearray()
        return outgoing

    def message(self, content: str | bytes) -> bytes:
        """A message's frames."""
        assert self.may_send, "a closed conversation takes no message"
        return bytes(self._frames.send(TextMessage(content) if isinstance(content, str) else BytesMessage(content)))

    def ping(self) -> bytes:
        return bytes(self._frames.send(Ping(b"")))

    def close(self, code: int, reason: str = "") -> bytes:
        """A close frame, b"" when one was sent before."""
        if not self.may_send:
            return b""
        return bytes(self._frames.send(CloseConnection(code, reason)))

    def _take_part(self, event: TextMessage | BytesMessage) -> None:
        part = event.data
        self._parts_bytes += len(part.encode()) if isinstance(part, str) else len(part)
        if self._parts_bytes > self._message_bytes_max:
            self._fail(CloseReason.MESSAGE_TOO_BIG, "the message is too large")
            return
        self._parts.append(part)
        if event.message_finished:
            whole = "".join(self._parts) if isinstance(part, str) else b"".join(self._parts)
            self._received.append(whole)
            self._parts, self._parts_bytes = [], 0

    def _take_close(self, event: CloseConnection) -> None:
        if self._frames.state is ConnectionState.OPEN:  # not a close frame: wsproto's word for a broken protocol
            self._fail(event.code, event.reason or "")
            return
        if self._frames.state is ConnectionState.REMOTE_CLOSING:
            code = None if event.code == CloseReason.NO_STATUS_RCVD else event.code
            self._outgoing += self._frames.send(CloseConnection(code or CloseReason.NORMAL_CLOSURE))
        self._end(Closed(int(event.code), event.reason or ""))

    def _fail(self, code: int, reason: str) -> None:
        self._outgoing += self.close(code, reason)
        self._end(Closed(int(code), reason))

    def _end(self, closed: Closed) -> None:
        self._over = True
        self._parts = []
        self._received.append(closed)


class _SizeGuard(Extension):
    """Judges a frame by its header: 2^40 bytes announced are refused before one of them comes.

    An extension to wsproto alone; it is never negotiated and uses no reserved bit.
    """

    name = "size-guard"

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max

    def offer(self) -> bool:
        return False

    def enabled(self) -> bool:
        return True

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if payload_length > self._frame_bytes_max:
            return CloseReason.MESSAGE_TOO_BIG
        return RsvBits(False, False, False)


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
