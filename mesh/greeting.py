"""From a TLS connection to a link: who the other end is, whether it may stay, and what those are told who may not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import trio

from mesh.errors import RefusedError
from mesh.hello import Hello, exchange_hellos
from mesh.last_word import LastWord, Reason, last_word_frame
from mesh.link import Link
from mesh.link_table import LinkTable
from mesh.mux_events import MuxConfig
from mesh.tls import STRANGER, TlsStream
from mesh.trust import TrustedPeer, TrustStore
from mesh.twins import PROOF_S, older_stays, same_start, why_not


class Greeter:
    """Greets the other end of connections that were dialled, and of those that others opened."""

    def __init__(self, trust: TrustStore, links: LinkTable, hello: Callable[[], Hello], config: MuxConfig) -> None:
        self._trust = trust
        self._links = links
        self._hello = hello
        self._config = config

    async def greet(self, tls: TlsStream, peer: TrustedPeer | None, dialled: bool) -> Link:
        """The exchange of hellos, after which both ends are known; the caller's cancel scope is the limit.

        Args:
            tls: After its handshake.
            peer: The member that it was dialled as, or whose certificate it showed.
            dialled: Whether this side opened the connection.

        Raises:
            RefusedError: `STRANGER`: no member. `link.sent-away`: it was told why it may not stay.
            Dismissed: The peer told us so.
            UnreachableError, ProtocolError: As `exchange_hellos`.
        """
        certificate = tls.peer_certificate() or b""
        if peer is None and self._trust.was_removed(certificate):
            await self._send_away(tls, Reason.REMOVED)
        if peer is None or certificate != peer.certificate:
            raise RefusedError("the peer is no member that this node knows", code=STRANGER)
        greeted = await exchange_hellos(tls, self._hello(), peer.node_id)
        await self._choose_twin(tls, greeted.hello)
        if self._trust.by_certificate(peer.certificate) is None:
            raise RefusedError("the peer was removed a moment ago", code=STRANGER)
        return Link(tls, certificate=peer.certificate, greeted=greeted, dialled=dialled, config=self._config)

    def last_word(self, reason: Reason) -> bytes:
        """The frame that closes a link for good."""
        mine = self._hello()
        return last_word_frame(LastWord(reason, mine.epoch, mine.ledger_index))

    async def _choose_twin(self, tls: TlsStream, new: Hello) -> None:
        """If another start of this peer lives: let the one go that may not stay (`mesh.twins`)."""
        old = self._links.get(new.node_id)
        if old is None or same_start(old.hello, new) or not await old.prove(PROOF_S):
            return
        peer = self._trust.get(new.node_id)
        named = peer.boot_nonce if peer is not None else b""
        if older_stays(old.hello, new, named):
            await self._send_away(tls, why_not(old.hello, named))
        old.dismiss(self.last_word(why_not(new, named)), "another start of the peer stays")

    async def _send_away(self, tls: TlsStream, reason: Reason) -> NoReturn:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await tls.send_all(self.last_word(reason))
        raise RefusedError("the peer was sent away", why=reason.value, code="link.sent-away")
