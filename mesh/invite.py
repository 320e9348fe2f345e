"""The token that `freecloud invite` prints: one line with all that a joiner needs to know (rule T2).

It names the mesh and the invite, carries a 128-bit secret (the seed of a signing key whose public half is in the
ledger) and pins the keys and addresses of up to three members. The secret never travels: the joiner signs with it.

    fc1_ base64url( length of body, 2 bytes | body | checksum, 6 bytes )

The checksum guards against slips of the hand, not against enemies: what a token is worth stands in the ledger alone.
Length and checksum tell a token that was cut off from one that was altered, so that a person learns which it was.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from nacl.signing import SigningKey

from mesh.errors import InviteRefused, ProtocolError, UpgradeNeeded
from mesh.names import MeshId
from mesh.versioned import Codec, Limits

TOKEN_BYTES_MAX = 1024
PINS_MAX = 3
ADDRESSES_MAX = 4  # a pin: one by name, one each for IPv4 and IPv6, one for the loopback
SECRET_BYTES = 16

_PREFIX = "fc1_"
_CHECKSUM_BYTES = 6
_HINT = "ask for a new one: freecloud invite"

_TOKEN = Codec(Limits(total_bytes_max=TOKEN_BYTES_MAX, text_bytes_max=128, bytes_max=64, items_max=16))


@dataclass(frozen=True, slots=True)
class InvitePin:
    """A member that the joiner may join through, known by key before the first byte."""

    public_key: bytes
    certificate_hash: bytes  # SHA-256 of the DER
    addresses: tuple[str, ...]  # host:port of its mesh listener

    @classmethod
    def of(cls, public_key: bytes, certificate: bytes, addresses: Iterable[str]) -> InvitePin:
        """The pin of a member; of its addresses the first few are kept."""
        return cls(public_key, hashlib.sha256(certificate).digest(), tuple(addresses)[:ADDRESSES_MAX])


@_TOKEN.message("invite.token")
@dataclass(frozen=True, slots=True)
class InviteToken:
    mesh_id: MeshId
    token_id: str
    secret: bytes
    pins: tuple[InvitePin, ...]

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES or not 0 < len(self.pins) <= PINS_MAX:
            raise ValueError("an invite has a 16-byte secret and one to three pins")
        for pin in self.pins:
            if len(pin.public_key) != 32 or len(pin.certificate_hash) != 32:
                raise ValueError("a pin holds a key and a hash of 32 bytes each")
            if not 0 < len(pin.addresses) <= ADDRESSES_MAX:
                raise ValueError(f"a pin holds one to {ADDRESSES_MAX} addresses")

    def __repr__(self) -> str:
        """Without the secret, which must not end in a log."""
        return f"InviteToken(mesh_id={self.mesh_id!r}, token_id={self.token_id!r}, pins={len(self.pins)})"


def encode_token(token: InviteToken) -> str:
    """The token as one printable line of at most 1 KiB."""
    body = _TOKEN.encode(token)
    raw = len(body).to_bytes(2, "big") + body
    text = _PREFIX + base64.urlsafe_b64encode(raw + _checksum(raw)).decode().rstrip("=")
    if len(text) > TOKEN_BYTES_MAX:
        raise ValueError(f"an invite of {len(text)} characters; the limit is {TOKEN_BYTES_MAX}")
    return text


def decode_token(text: str) -> InviteToken:
    """What `encode_token` wrote; blanks around it are forgiven.

    Raises:
        InviteRefused: `invite.truncated`, `invite.damaged` or `invite.version`. Nothing was contacted.
    """
    text = text.strip()
    _check_prefix(text)
    if len(text) > TOKEN_BYTES_MAX:
        raise _damaged("it is longer than any token")
    raw = _from_base64(text[len(_PREFIX) :])
    length = int.from_bytes(raw[:2], "big")
    if len(raw) < 2 + length + _CHECKSUM_BYTES:
        if len(raw) < 2 or length <= TOKEN_BYTES_MAX:
            raise InviteRefused(
                "this invite token is cut off",
                why="its end is missing",
                hint="copy it again",
                code="invite.truncated",
            )
        raise _damaged("its length makes no sense")
    if len(raw) > 2 + length + _CHECKSUM_BYTES:
        raise _damaged("something follows its end")
    if not hmac.compare_digest(_checksum(raw[: 2 + length]), raw[2 + length :]):
        raise _damaged("its checksum does not match")
    try:
        return _TOKEN.decode(raw[2 : 2 + length], InviteToken)
    except UpgradeNeeded as error:
        raise _too_new() from error
    except ProtocolError as error:
        raise _damaged(error.why or error.what) from error


def invite_signing_key(secret: bytes) -> SigningKey:
    """The key that a token's secret stands for; its public half is all that the ledger holds."""
    return SigningKey(hashlib.blake2b(secret, digest_size=32, person=b"freecloud-invite").digest())


def _check_prefix(text: str) -> None:
    if text.startswith(_PREFIX):
        return
    if _PREFIX.startswith(text):
        raise InviteRefused("this invite token is cut off", hint="copy it again", code="invite.truncated")
    if text.startswith("fc") and text[2:3].isdigit() and text[3:4] == "_":
        raise _too_new()
    raise _damaged("a token begins with fc1_")


def _from_base64(text: str) -> bytes:
    """Strict: one text for one value, so that no altered character can go unnoticed."""
    usable = text if len(text) % 4 != 1 else text[:-1]
    try:
        raw = base64.b64decode(usable + "=" * (-len(usable) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _damaged("it holds a character that no token has") from error
    if usable is not text or base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        length = int.from_bytes(raw[:2], "big")
        if len(raw) >= 2 + length + _CHECKSUM_BYTES:
            raise _damaged("its last character is wrong")
    return raw


def _checksum(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_CHECKSUM_BYTES, person=b"freecloud-token").digest()


def _damaged(why: str) -> InviteRefused:
    return InviteRefused("this invite token was altered", why=why, hint=_HINT, code="invite.damaged")


def _too_new() -> InviteRefused:
    return InviteRefused(
        "this invite token is of another version",
        why="a newer program made it",
        hint="upgrade",
        code="invite.version",
    )
