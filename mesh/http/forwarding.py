"""What of a message passes a relay, and as what: pure, both directions.

A relay speaks for its client to the upstream, so whatever the client says about itself in a relay's words
(X-Forwarded-*, Forwarded, X-Real-IP, our own X-Freecloud-*) is dropped and said anew (attack 28). Hop-by-hop fields,
and those that Connection names, end here (RFC 9110 7.6.1). Of upgrades only a valid WebSocket passes: h2c smuggles.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.http.messages import Endpoints, Framing, Headers, RequestHead, ResponseHead, tokens_of
from mesh.http.responses import HOP_BY_HOP, encode_request
from mesh.http.wsframes import asks_for_websocket, handshake_fault

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
"""RFC 9110 9.2.1: asking twice is no more than asking once."""

_TOLD_BY_RELAYS = (b"x-forwarded", b"x-freecloud-", b"x-original-", b"x-rewrite-")
_NOT_TAKEN_OVER = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"forwarded", b"x-real-ip", b"via"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes on its upstream.

    Args:
        target: Path and query there.
        prefix: What was cut off the path, told to the upstream; "" for nothing.
        extra: Fields that the relay adds.
    """

    target: bytes
    prefix: bytes = b""
    extra: tuple[tuple[bytes, bytes], ...] = ()


def passes_upgrade(request: RequestHead) -> bool:
    """Is this an upgrade that may pass to the upstream?"""
    return asks_for_websocket(request) and not handshake_fault(request)


def upstream_head(request: RequestHead, endpoints: Endpoints, address: Address, body: tuple[Framing, int]) -> bytes:
    """The request's head as the upstream gets it, written anew."""
    named = set(tokens_of(request.headers, b"connection"))
    headers: Headers = [
        (name, value)
        for name, value in request.headers
        if name not in _NOT_TAKEN_OVER and name not in named and not name.startswith(_TOLD_BY_RELAYS)
    ]
    client = endpoints.client[0] if endpoints.client is not None else "127.0.0.1"
    headers.append((b"x-forwarded-for", client.encode()))
    headers.append((b"x-forwarded-proto", endpoints.scheme.encode()))
    if request.host:
        headers.append((b"x-forwarded-host", request.host))
    if address.prefix:
        headers.append((b"x-forwarded-prefix", address.prefix))
    headers += address.extra
    if passes_upgrade(request):
        headers += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    framing, length = body
    return encode_request(request.method, address.target, request.host or b"localhost", headers, framing, length)


def downstream_headers(response: ResponseHead) -> Headers:
    """The response's fields as the client gets them; its framing is written anew by the `ResponseWriter`."""
    named = set(tokens_of(response.headers, b"connection"))
    dropped = named - {b"content-length"}  # the length is ours to tell, whatever an upstream calls it
    return [
        (name, value)
        for name, value in response.headers
        if name not in HOP_BY_HOP and name not in dropped and not name.startswith(b"x-freecloud-")
    ]


def upgrade_headers(response: ResponseHead) -> Headers:
    """The fields of a 101 answer as the client gets them."""
    return [*downstream_headers(response), (b"connection", b"Upgrade"), (b"upgrade", response.upgrade)]
