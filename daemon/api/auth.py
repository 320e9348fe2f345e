"""Who is asking: the unix socket's peer, or the holder of an API token (rule H2).

A token is `fct_ID_SECRET_PIN`: the ledger holds a hash of the secret, the pin lets a client elsewhere recognise this
node. TCP always needs one, loopback included; browsers have no ambient right here, for nothing is a cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from consensus.records import ApiToken
from mesh.errors import ExhaustedError, RefusedError

SCOPES = ("read", "deploy", "data", "admin")
IMPLIED = {"admin": {"read", "deploy", "data", "admin"}, "deploy": {"deploy", "read"}, "data": {"data", "read"}}

FAILURES_A_MINUTE_MAX = 10
"""Per address; then a growing pause (limits page)."""

ADDRESSES_REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks and what it may do."""

    name: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises RefusedError unless the principal has this scope."""
        if scope not in self.scopes:
            raise RefusedError(f"{self.name} may not do that", why=f"it needs the scope {scope!r}", code="scope")


OWNER = Principal("this machine's owner", frozenset(SCOPES))


class Throttle:
    """Counts failures by address; after ten within a minute the next try waits 1, 2, 4 … 60 s."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}

    def check(self, address: str, now: float) -> None:
        """Raises ExhaustedError while this address has to wait."""
        count, last = self._failures.get(address, (0, 0.0))
        if count < FAILURES_A_MINUTE_MAX:
            return
        pause = min(60.0, 2.0 ** (count - FAILURES_A_MINUTE_MAX))
        if now < last + pause:
            raise ExhaustedError(
                "too many wrong tokens from this address", hint="wait a minute", code="limit.auth-failures"
            )

    def failed(self, address: str, now: float) -> None:
        count, last = self._failures.pop(address, (0, now))
        if now - last > 60.0:
            count = 0
        self._failures[address] = (count + 1, now)
        while len(self._failures) > ADDRESSES_REMEMBERED_MAX:
            del self._failures[next(iter(self._failures))]

    def succeeded(self, address: str) -> None:
        self._failures.pop(address, None)


def offers_token(header: str) -> bool:
    """Whether this Authorization header offers anything: who offers nothing guesses nothing. A page in the owner's
    browser can make requests without one, and must not lock the owner out."""
    return bool(header.strip())


def make_token(certificate: bytes) -> tuple[str, str, bytes]:
    """(token as shown once, its id, the hash that the ledger keeps)."""
    token_id = secrets.token_hex(4)
    secret = secrets.token_urlsafe(24).replace("_", "-")
    pin = hashlib.sha256(certificate).hexdigest()
    return f"fct_{token_id}_{secret}_{pin}", token_id, hash_secret(secret)


def hash_secret(secret: str) -> bytes:
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"freecloud-token").digest()


def principal_of_token(header: str, tokens: Mapping[str, ApiToken], now_ms: int) -> Principal:
    """Who the bearer of this Authorization header is.

    Raises:
        RefusedError: No token, a wrong, revoked or expired one; always in the same words, so that nothing is learnt.
    """
    wrong = RefusedError(
        "this needs a valid API token", hint="make one with `freecloud auth tokens create`", code="token"
    )
    scheme, _, text = header.partition(" ")
    parts = text.strip().split("_")
    if scheme.lower() != "bearer" or len(parts) != 4 or parts[0] != "fct":
        raise wrong
    token = tokens.get(parts[1])
    known = token.secret_hash if token is not None else bytes(32)
    right = hmac.compare_digest(known, hash_secret(parts[2]))
    if token is None or not right or (token.expires_ms and now_ms >= token.expires_ms):
        raise wrong
    granted: set[str] = set()
    for scope in token.scopes:
        granted |= IMPLIED.get(scope, {scope})
    return Principal(f"the token {token.name!r}", frozenset(granted))


def principal_of_socket(peer_uid: int | None) -> Principal:
    """The unix socket is 0600: its peer is this daemon's own user or root."""
    if peer_uid is None or peer_uid not in (0, os.getuid()):
        raise RefusedError("this socket belongs to another user", code="socket")
    return OWNER
