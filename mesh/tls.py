"""TLS 1.3 over any stream: `ssl.MemoryBIO` between the machine in OpenSSL and a `Stream`, writes coalesced.

One call of `send_all` seals all its bytes and hands them over at once; trio's own SSLStream makes a write of each
record (measured: 2.2 × fewer round trips a second). Both ends show a certificate; which ones are accepted is the
trust store's business and comes down to equality of bytes (rule T1).

A session is never resumed: a resumed one would carry yesterday's answer of the trust store into today.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

import trio

from mesh.errors import ProtocolError, RefusedError, UnreachableError
from mesh.identity import Identity
from mesh.transports.stream import Stream
from mesh.trust import TrustStore

ALPN_MESH = "freecloud-mesh/1"
ALPN_JOIN = "freecloud-join/1"

_RECEIVE_BYTES = 32 * 1024

# X509_V_FLAG_NO_CHECK_TIME, which Python has no name for. A certificate's dates mean nothing (rule T1), so that a
# machine whose clock starts in 1970, or is set an hour off, keeps its links.
_NO_CHECK_TIME = 0x200000

_ALERT_S = 1.0  # for the last alert; a peer that does not take it learns by the closing itself

STRANGER = "link.stranger"
"""The code of `RefusedError` when a certificate is not one that the ledger names, on either side."""

REFUSALS = frozenset(
    {"TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"}
)
"""How OpenSSL names a peer's alert that our certificate is not accepted."""


class TlsContexts:
    """The TLS library's view of this node's identity and trust store, rebuilt whenever the members change."""

    def __init__(self, identity: Identity, trust: TrustStore) -> None:
        self._identity = identity
        self._trust = trust
        self._server: ssl.SSLContext | None = None
        self._generation = -1

    def server(self) -> ssl.SSLContext:
        """For connections that others open, of members and joiners alike: a certificate is asked for, not required."""
        if self._server is None or self._generation != self._trust.generation:
            context = _context(ssl.PROTOCOL_TLS_SERVER)
            context.num_tickets = 0
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_cert_chain(self._identity.pem_path)
            if certificates := self._trust.certificates():
                context.load_verify_locations(cadata=b"".join(certificates))
            context.set_alpn_protocols([ALPN_MESH, ALPN_JOIN])
            self._server = context
            self._generation = self._trust.generation
        return self._server

    def dial(self, certificate: bytes) -> ssl.SSLContext:
        """For a connection to the one member that has this certificate.

        It costs a millisecond and lives for one dial: a context that trusted every member would hold all their
        certificates a second time.
        """
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._identity.pem_path)
        context.load_verify_locations(cadata=certificate)
        context.set_alpn_protocols([ALPN_MESH])
        return context


def join_context() -> ssl.SSLContext:
    """For a joiner, who has no certificate that anyone knows and checks the server's against the token's pin."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN_JOIN])
    return context


def _context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # names prove nothing here
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    return context


class TlsStream:
    """A `Stream` whose bytes are sealed. Use it after `handshake` has returned."""

    def __init__(self, stream: Stream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self.refused = False  # the peer has said that it does not accept our certificate

    async def handshake(self) -> None:
        """Agree on keys; the caller's cancel scope is the limit.

        Raises:
            RefusedError: With the code `STRANGER`: the peer showed a certificate that is not accepted.
            UnreachableError: The connection ended.
            ProtocolError: It is not TLS 1.3 that the peer speaks.
        """
        try:
            while not self._step():
                await self._flush()
                received = await self._stream.receive_some(_RECEIVE_BYTES)
                if not received:
                    raise UnreachableError("the peer closed the connection during the handshake")
                self._incoming.write(received)
            await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise UnreachableError("the connection broke during the handshake", why=str(error)) from error
        except ssl.SSLError as error:
            with trio.move_on_after(_ALERT_S), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._flush()
            raise _translated(error) from error

    def _step(self) -> bool:
        """Go on with the handshake as far as the received bytes reach; True when it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER); None when it showed none. That it has the key was proved."""
        return self._tls.getpeercert(binary_form=True)

    def protocol(self) -> str | None:
        """The ALPN name that both agreed on."""
        return self._tls.selected_alpn_protocol()

    async def send_all(self, payload: bytes) -> None:
        try:
            self._seal(payload)
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(f"TLS failed: {error.reason}") from error
        # Also of nothing: the stream may still hold the rest of what `try_send` gave it.
        await self._stream.send_all(self._outgoing.read())

    def try_send(self, payload: bytes) -> bool:
        try:
            self._seal(payload)
        except ssl.SSLError:
            return False  # the next `send_all` meets it again, and tells
        return self._stream.try_send(self._outgoing.read())

    def _seal(self, payload: bytes) -> None:
        with memoryview(payload) as view:
            written = 0
            while written < len(view):
                written += self._tls.write(view[written:])

    async def receive_some(self, bytes_max: int) -> bytes:
        """At least one byte, or b"" at the end.

        Nothing is sent from here, so a peer that never reads cannot stop our reading: what TLS wants to answer
        (a key update) leaves with the next `send_all`.
        """
        while True:
            try:
                return self._tls.read(bytes_max)
            except ssl.SSLWantReadError:
                received = await self._stream.receive_some(_RECEIVE_BYTES)
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                self.refused = error.reason in REFUSALS
                raise trio.BrokenResourceError(f"TLS failed: {error.reason}") from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._stream.send_all(self._outgoing.read())


def _translated(error: ssl.SSLError) -> RefusedError | ProtocolError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return RefusedError(
            "the peer is no member that this node knows", why=error.verify_message, code=STRANGER
        )
    if error.reason in REFUSALS:
        return RefusedError("the peer does not know this node as a member", code=STRANGER)
    return ProtocolError("the TLS handshake failed", why=str(error.reason or error))
