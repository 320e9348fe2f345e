"""What this engine accepts of a peer: sizes and times, each with its reason. One frozen value, validated once."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Source: the limits page. Every refusal names the limit that was hit."""

    request_line_bytes_max: int = 8 * KIB  # RFC 9112 3 recommends at least 8,000
    head_bytes_max: int = 32 * KIB  # nginx 32 KiB, Node 16 KiB
    fields_max: int = 100  # gunicorn 100
    chunk_extension_bytes_max: int = 256
    chunk_extensions_total_bytes_max: int = 16 * KIB  # or a body of tiny chunks costs more wire than content
    trailer_bytes_max: int = 8 * KIB
    body_bytes_max: int = 256 * MIB  # an archive; an application may ask for less
    read_bytes: int = 64 * KIB
    """One read. It also bounds pipelining: requests are parsed one at a time, the next when the last is answered, so
    that no more than one read's worth of them ever waits (the limits page allows sixteen parsed ahead)."""

    head_time_s: float = 10.0  # from the first byte (or from the connection's opening) to the end of the head
    body_idle_s: float = 30.0  # between two pieces of a body, either way
    keep_alive_s: float = 75.0  # between two requests
    body_bytes_a_second_min: int = KIB  # counted only while the client is waited for, after `body_idle_s`
    linger_s: float = 2.0  # reading on after a refusal, so that its answer isn't lost to a reset
    linger_bytes_max: int = 256 * KIB
    drain_bytes_max: int = 64 * KIB  # of an unread request body, to keep its connection; more closes it

    connections_max: int = 10_000
    connections_an_address_max: int = 100  # loopback is exempt

    websocket_message_bytes_max: int = MIB
    websocket_queue_max: int = 64
    websocket_ping_s: float = 30.0
    websocket_close_s: float = 5.0

    def __post_init__(self) -> None:
        if self.request_line_bytes_max > self.head_bytes_max:
            raise ValueError("a request line is part of the head and cannot be allowed to be longer")
        if self.read_bytes < 1 or self.fields_max < 1 or self.body_bytes_max < 0:
            raise ValueError("limits are positive")


DEFAULT_LIMITS = HttpLimits()
