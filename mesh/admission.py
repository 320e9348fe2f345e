"""Joining: how a node that nobody knows becomes a member, both sides of it (rule T2).

It runs on the mesh port under an ALPN of its own, where only the server is authenticated:

    server → joiner   Challenge: a nonce
    joiner → server   JoinRequest: mesh id, token id, profile, two signatures over all of it, the server's key and nonce
    server → joiner   JoinWelcome, or JoinRefusal: an error that the joiner shows

The joiner checks the server's certificate against the token's pin before it sends a byte. One signature is by the
key that the token's secret seeds, the other by the joiner's own node key. The secret never travels, and what was
signed for one server and connection is worth nothing to another.

Whether the token is worth anything is decided by the ledger alone, behind `AdmissionDesk`. The same joiner asking
again gets the same answer there, so a joiner whose connection broke simply asks the next member.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from mesh.budget import HANDSHAKE_S
from mesh.claims import ADDRESSES_MAX, check_address, check_labels, check_name, check_text
from mesh.errors import (
    DeadlineError,
    FreecloudError,
    InviteRefused,
    NoQuorumError,
    OutcomeUnknown,
    ProtocolError,
    RefusedError,
    UnavailableError,
    UnreachableError,
    UsageError,
    rebuild,
)
from mesh.errors import Kind as ErrorKind
from mesh.identity import Identity, certificate_public_key, check_certificate, verify_signature
from mesh.invite import InvitePin, InviteToken, invite_signing_key
from mesh.names import MeshId, NodeId, node_id_of
from mesh.tls import ALPN_JOIN, TlsStream, join_context
from mesh.transports.stream import Dialler, Stream
from mesh.transports.tcp import dial_tcp
from mesh.versioned import Codec, Limits

CONNECT_S = 3.0
"""For one address of a pin; the next one is tried then."""

ANSWER_S = 15.0
"""A member's answer, which waits for a quorum; then the next member is asked the same."""

SIGNING_DOMAIN = b"freecloud-join-1"

COUNTER_MAX = 1 << 48
LEVEL_MAX = 1 << 16
"""What no node comes near, and every later sum of it stays exact."""

REQUEST_BYTES_MAX = 16 * 1024
WELCOME_BYTES_MAX = 16 * 1024 * 1024  # ten thousand members; only a pinned server is believed that much

_REQUEST = Codec(Limits(total_bytes_max=REQUEST_BYTES_MAX, text_bytes_max=512, bytes_max=1024, items_max=128))
_REPLY = Codec(
    Limits(total_bytes_max=WELCOME_BYTES_MAX, text_bytes_max=2048, bytes_max=WELCOME_BYTES_MAX, items_max=16)
)


@dataclass(frozen=True, slots=True)
class JoinProfile:
    """What a joiner says of itself; what the invite grants is not for it to say."""

    name: str
    certificate: bytes
    public_key: bytes
    zone: str
    provider: str
    labels: tuple[tuple[str, str], ...]
    addresses: tuple[str, ...]
    may_vote: bool
    store_id: bytes
    boot_counter: int
    boot_nonce: bytes
    feature_level: int

    def __post_init__(self) -> None:
        if len(self.public_key) != 32 or len(self.store_id) != 16 or len(self.boot_nonce) != 8:
            raise ValueError("a key has 32 bytes, a store id 16, a boot nonce 8")

    def check(self) -> None:
        """Whether every member can live with what this joiner says of itself; a token makes nobody trustworthy.

        Raises:
            UsageError: A name, a zone, a label or an address that cannot be meant.
            RefusedError: Something else that no honest joiner says.
        """
        check_name(self.name)
        check_text("zone", self.zone)
        check_text("provider", self.provider)
        check_labels(self.labels)
        if not 1 <= len(self.addresses) <= ADDRESSES_MAX:
            raise UsageError(f"a node has 1 to {ADDRESSES_MAX} addresses", why=f"these are {len(self.addresses)}")
        for address in self.addresses:
            check_address(address)
        if not (0 < self.boot_counter < COUNTER_MAX and 0 <= self.feature_level < LEVEL_MAX):
            raise RefusedError("the joiner's start or feature level is out of range", code="join.range")
        try:
            check_certificate(self.certificate, self.public_key)
        except ProtocolError as error:
            raise RefusedError(f"the joiner's certificate is refused: {error.what}", code="join.certificate") from error


@dataclass(frozen=True, slots=True)
class VerifiedJoin:
    """A joiner that proved to hold the token's secret and its own key."""

    token_id: str
    node_id: NodeId
    profile: JoinProfile


class AdmissionDesk(Protocol):
    """The ledger's side of joining. Its errors travel to the joiner."""

    @property
    def mesh_id(self) -> MeshId: ...

    async def invite_key(self, token_id: str, deadline: float) -> bytes | None:
        """The public half of the invite's key; None when there is no such invite."""

    async def admit(self, request: VerifiedJoin, deadline: float) -> bytes:
        """Admit the joiner; what it needs to know then, opaque here."""


@_REPLY.message("join.challenge")
@dataclass(frozen=True, slots=True)
class Challenge:
    nonce: bytes


@_REQUEST.message("join.request")
@dataclass(frozen=True, slots=True)
class JoinRequest:
    mesh_id: MeshId
    token_id: str
    profile: JoinProfile
    by_invite: bytes
    by_node: bytes


@_REPLY.message("join.welcome")
@dataclass(frozen=True, slots=True)
class JoinWelcome:
    welcome: bytes


@_REPLY.message("join.refusal")
@dataclass(frozen=True, slots=True)
class JoinRefusal:
    code: str
    kind: str
    what: str
    why: str
    hint: str


def _statement(
    token_mesh: MeshId, token_id: str, profile: JoinProfile, server_key: bytes, nonce: bytes
) -> bytes:
    """What both signatures are over. It never travels, hence no codec: each field has its length before it."""
    unsigned = _REQUEST.encode(JoinRequest(token_mesh, token_id, profile, b"", b""))
    fields = (token_mesh.encode(), token_id.encode(), profile.public_key, server_key, nonce, unsigned)
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


async def serve_join(
    tls: TlsStream, desk: AdmissionDesk, identity: Identity, proved: Callable[[], None]
) -> bool:
    """Answer one joiner; the handshake is over, everything else is judged here.

    Args:
        tls: Its connection, not authenticated.
        desk: See there.
        identity: Ours, which the token pins.
        proved: Called once the joiner has proved to hold the secret: it leaves the budget of strangers.

    Returns:
        Whether it was admitted.
    """
    try:
        welcome = await _admit(tls, desk, identity, proved)
    except trio.BrokenResourceError:
        return False
    except FreecloudError as error:
        refusal = JoinRefusal(error.stable_code, error.kind.value, error.what, error.why, error.hint)
        await _tell(tls, _REPLY.encode(refusal))
        return False
    await _tell(tls, _REPLY.encode(JoinWelcome(welcome)))
    return True


async def _admit(
    tls: TlsStream, desk: AdmissionDesk, identity: Identity, proved: Callable[[], None]
) -> bytes:
    try:
        with trio.fail_after(HANDSHAKE_S):
            verified = await _verify(tls, desk, identity)
        proved()
        with trio.fail_after(ANSWER_S):
            return await desk.admit(verified, trio.current_time() + ANSWER_S)
    except trio.TooSlowError:
        raise DeadlineError("joining took too long", hint="try again") from None


async def _verify(tls: TlsStream, desk: AdmissionDesk, identity: Identity) -> VerifiedJoin:
    nonce = secrets.token_bytes(32)
    await _send(tls, _REPLY.encode(Challenge(nonce)))
    request = _REQUEST.decode(await _receive(tls, REQUEST_BYTES_MAX), JoinRequest)
    if request.mesh_id != desk.mesh_id:
        raise InviteRefused("this invite token is for another mesh", code="invite.foreign")
    invite_key = await desk.invite_key(request.token_id, trio.current_time() + HANDSHAKE_S)
    if invite_key is None:
        raise InviteRefused(
            "this mesh has no such invite", hint="ask for a new one: freecloud invite", code="invite.unknown"
        )
    profile = request.profile
    statement = _statement(request.mesh_id, request.token_id, profile, identity.public_key, nonce)
    if not _signed_by_invite(invite_key, statement, request.by_invite):
        raise InviteRefused("this invite token was altered", why="its secret is wrong", code="invite.damaged")
    if not verify_signature(profile.public_key, SIGNING_DOMAIN, statement, request.by_node):
        raise RefusedError("the joiner does not own the key that it shows", code="join.key")
    profile.check()
    return VerifiedJoin(request.token_id, node_id_of(profile.public_key), profile)


async def join(
    token: InviteToken, identity: Identity, profile: JoinProfile, *, deadline: float, dial: Dialler = dial_tcp
) -> bytes:
    """Join by this token through the first of its members that answers.

    Args:
        token: As decoded.
        identity: The joiner's own.
        profile: What it says of itself.
        deadline: Absolute trio time for all attempts together.
        dial: The transport.

    Returns:
        The welcome, opaque here.

    Raises:
        InviteRefused: What is wrong with the token.
        NoQuorumError: A member was reached, and the mesh cannot decide now.
        UnreachableError: No member was reached. In both cases, asking again is safe.
    """
    errors: list[FreecloudError] = []
    strangers: list[_WrongServer] = []
    for pin in token.pins:
        for address in pin.addresses:
            with trio.move_on_at(min(deadline, trio.current_time() + CONNECT_S + HANDSHAKE_S + ANSWER_S)):
                try:
                    return await _join_through(address, pin, token, identity, profile, dial)
                except (UnavailableError, OutcomeUnknown) as error:
                    errors.append(error)
                except _WrongServer as error:
                    strangers.append(error)
                continue
            errors.append(DeadlineError(f"{address} did not answer in time"))
    if strangers and not any(isinstance(error, NoQuorumError) for error in errors):
        raise strangers[0].refusal
    raise _worst(errors)


class _WrongServer(Exception):
    """Whoever listens at the address is not whom the token pins (attack 4)."""

    def __init__(self, refusal: InviteRefused) -> None:
        super().__init__(refusal.what)
        self.refusal = refusal


async def _join_through(
    address: str, pin: InvitePin, token: InviteToken, identity: Identity, profile: JoinProfile, dial: Dialler
) -> bytes:
    stream: Stream | None = None
    try:
        with trio.move_on_after(CONNECT_S):
            stream = await dial(address)
        if stream is None:
            raise UnreachableError(f"cannot connect to {address}", why="it does not answer")
        tls = TlsStream(stream, join_context(), server_side=False)
        with trio.move_on_after(HANDSHAKE_S) as handshake:
            await tls.handshake()
        if handshake.cancelled_caught:
            raise UnreachableError(f"{address} does not answer", why="the TLS handshake took too long")
        _check_pin(tls, pin, address)
        challenge = _REPLY.decode(await _receive(tls, REQUEST_BYTES_MAX), Challenge)
        statement = _statement(token.mesh_id, token.token_id, profile, pin.public_key, challenge.nonce)
        by_invite = invite_signing_key(token.secret).sign(statement).signature
        request = JoinRequest(
            token.mesh_id, token.token_id, profile, by_invite, identity.sign(SIGNING_DOMAIN, statement)
        )
        await _send(tls, _REQUEST.encode(request))
        reply: object = _REPLY.decode(await _receive(tls, WELCOME_BYTES_MAX))
    except (trio.BrokenResourceError, ProtocolError) as error:
        raise UnreachableError(f"{address} did not let us join", why=str(error)) from error
    finally:
        if stream is not None:
            with trio.move_on_after(1.0, shield=True):
                await stream.aclose()
    match reply:
        case JoinWelcome(welcome=welcome):
            return welcome
        case JoinRefusal():
            raise _rebuilt(reply)
        case _:
            raise UnreachableError(f"{address} answered with nonsense")


def _check_pin(tls: TlsStream, pin: InvitePin, address: str) -> None:
    certificate = tls.peer_certificate() or b""
    matches = hmac.compare_digest(hashlib.sha256(certificate).digest(), pin.certificate_hash)
    if not matches or certificate_public_key(certificate) != pin.public_key or tls.protocol() != ALPN_JOIN:
        raise _WrongServer(
            InviteRefused(
                f"{address} is not the node that this token names",
                why="another node, perhaps of another mesh, listens there",
                hint="ask for a new one: freecloud invite",
                code="invite.foreign",
            )
        )


def _rebuilt(refusal: JoinRefusal) -> FreecloudError:
    try:
        kind = ErrorKind(refusal.kind)
    except ValueError:
        kind = ErrorKind.FAILED
    return rebuild(refusal.code, kind, refusal.what, refusal.why, refusal.hint)


def _worst(errors: list[FreecloudError]) -> FreecloudError:
    """What to tell of several failures: the one that says most about the mesh."""
    for wanted in (NoQuorumError, OutcomeUnknown, DeadlineError):
        for error in errors:
            if type(error) is wanted:
                return error
    if len(errors) == 1:
        return errors[0]
    return UnreachableError(
        "none of the members that this token names can be reached",
        why="; ".join(str(error) for error in errors[:3]),
        hint="check the network, or ask for a new token: freecloud invite",
    )


def _signed_by_invite(invite_key: bytes, statement: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(invite_key).verify(statement, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


async def _send(tls: TlsStream, message: bytes) -> None:
    await tls.send_all(len(message).to_bytes(4, "big") + message)


async def _tell(tls: TlsStream, message: bytes) -> None:
    """Send a last message; a joiner that is gone asks again."""
    with trio.move_on_after(HANDSHAKE_S):
        try:
            await _send(tls, message)
            # Wait for it to hang up first: closing now could overtake the message (RST over unread bytes).
            await tls.receive_some(1)
        except trio.BrokenResourceError:
            return


async def _receive(tls: TlsStream, bytes_max: int) -> bytes:
    length = int.from_bytes(await _exactly(tls, 4), "big")
    if length > bytes_max:
        raise ProtocolError(f"a joining message of {length} bytes", why=f"the limit is {bytes_max}")
    return await _exactly(tls, length)


async def _exactly(tls: TlsStream, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = await tls.receive_some(min(count - len(received), 64 * 1024))
        if not piece:
            raise UnreachableError("the connection was closed while joining")
        received += piece
    return bytes(received)
