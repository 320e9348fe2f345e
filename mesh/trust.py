"""Whom this node accepts on a link: the certificates of the active members in its copy of the ledger (rule T1).

A certificate is matched byte for byte, never by a name inside it, so another certificate under a member's name is
a stranger's. Whoever owns the ledger feeds `update`; every change raises `generation`, from which the TLS contexts
know that they are out of date.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.names import NodeId, Role


@dataclass(frozen=True, slots=True)
class TrustedPeer:
    """A member that may open a link, as the ledger describes it now."""

    node_id: NodeId
    public_key: bytes
    certificate: bytes  # DER
    name: str
    trusted: bool
    voter: bool
    boot_nonce: bytes = b""  # of its start that the ledger names


class TrustStore:
    """The members of this moment; asked at every handshake and at every call, never remembered by a link."""

    def __init__(self, peers: Iterable[TrustedPeer] = ()) -> None:
        self._by_id: dict[NodeId, TrustedPeer] = {}
        self._by_certificate: dict[bytes, TrustedPeer] = {}
        self._removed: frozenset[bytes] = frozenset()
        self._generation = 0
        self.update(peers)

    @property
    def generation(self) -> int:
        """Rises whenever the set of accepted certificates changes."""
        return self._generation

    def update(self, peers: Iterable[TrustedPeer], removed: Iterable[bytes] = ()) -> frozenset[NodeId]:
        """Replace the members by these.

        Args:
            peers: The active members.
            removed: The certificates of removed ones: they are told so (`mesh.last_word`), and nothing else.

        Returns:
            Those whose old certificate is no longer accepted: removed, or with another certificate now.
        """
        fresh = {peer.node_id: peer for peer in peers}
        certificates = {peer.certificate: peer for peer in fresh.values()}
        gone = frozenset(
            peer.node_id
            for certificate, peer in self._by_certificate.items()
            if certificate not in certificates
        )
        banned = frozenset(removed) - certificates.keys()
        if certificates.keys() != self._by_certificate.keys() or banned != self._removed:
            self._generation += 1
        self._removed = banned
        self._by_id = fresh
        self._by_certificate = certificates
        return gone

    def by_certificate(self, certificate: bytes) -> TrustedPeer | None:
        """The member with exactly this certificate."""
        return self._by_certificate.get(certificate)

    def was_removed(self, certificate: bytes) -> bool:
        """Whether it is a removed member's: such a one may be told so."""
        return certificate in self._removed

    def get(self, node_id: NodeId) -> TrustedPeer | None:
        """The member with this id."""
        return self._by_id.get(node_id)

    def role_ok(self, node_id: NodeId, role: Role) -> bool:
        """Whether this node is at least that. Unknown nodes are nothing, and what is not listed here is refused."""
        peer = self._by_id.get(node_id)
        match role:
            case Role.ANYONE:
                return True
            case Role.MEMBER:
                return peer is not None
            case Role.TRUSTED:
                return peer is not None and peer.trusted
            case Role.VOTER:
                return peer is not None and peer.trusted and peer.voter

    def certificates(self) -> tuple[bytes, ...]:
        """Every certificate whose holder may prove that it has the key, for the TLS library.

        That is all it proves: `by_certificate` says who is a member.
        """
        return (*self._by_certificate, *sorted(self._removed))

    def members(self) -> tuple[NodeId, ...]:
        """Everyone who may open a link."""
        return tuple(self._by_id)
