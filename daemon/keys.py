"""The mesh's keys, as far as the ledger shares them with this node (rules G1, T7).

A generation is sealed to each trusted member in the ledger; here the shares are opened with the node's own key, and
sealed for whoever joins. Nothing of them is ever written in clear.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consensus.records import KeyGeneration, KeyShare, Member
from mesh.errors import DamagedError, FailedError
from mesh.identity import Identity, seal_to
from mesh.names import NodeId

KEY_BYTES = 32
GOSSIP = "gossip"
DATA = "data"


class KeyHolder:
    """Opens this node's shares; remembers what it opened, for opening costs a scalar multiplication."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._opened: dict[bytes, bytes] = {}

    def ring(self, keys: Mapping[tuple[str, int], KeyGeneration], purpose: str) -> tuple[tuple[int, bytes], ...]:
        """(generation, key) of every generation shared with this node, newest first."""
        found = []
        for (name, generation), key in keys.items():
            share = next((share for share in key.shares if share.node_id == self._identity.node_id), None)
            if name == purpose and share is not None:
                found.append((generation, self._open(share.sealed)))
        return tuple(sorted(found, reverse=True))

    def newest(self, keys: Mapping[tuple[str, int], KeyGeneration], purpose: str) -> tuple[int, bytes]:
        """The generation that seals.

        Raises:
            FailedError: No generation is shared with this node (yet).
        """
        ring = self.ring(keys, purpose)
        if not ring:
            raise FailedError(f"this node has no {purpose} key", why="none was shared with it yet")
        return ring[0]

    def shares_for(
        self, keys: Mapping[tuple[str, int], KeyGeneration], joiner: bytes, joiner_id: NodeId
    ) -> tuple[KeyShare, ...]:
        """Every key that this node can open, sealed for a joiner's public key."""
        return tuple(
            KeyShare(purpose, generation, joiner_id, seal_to(joiner, key))
            for purpose in (GOSSIP, DATA)
            for generation, key in self.ring(keys, purpose)
        )

    def _open(self, sealed: bytes) -> bytes:
        if sealed not in self._opened:
            self._opened[sealed] = self._identity.open_sealed(sealed)
        return self._opened[sealed]


def seal_secret(key: bytes, name: str, value: bytes) -> bytes:
    """An app secret under a data key; its name is bound in, so that two secrets cannot be swapped."""
    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(key).encrypt(nonce, value, name.encode())


def open_secret(key: bytes, name: str, ciphertext: bytes) -> bytes:
    """The value that `seal_secret` sealed.

    Raises:
        DamagedError: Another key, another name, or changed bytes.
    """
    try:
        return AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], name.encode())
    except InvalidTag as error:
        raise DamagedError(f"the secret {name} cannot be opened") from error


def new_generation(purpose: str, generation: int, members: Mapping[NodeId, Member], now_ms: int) -> KeyGeneration:
    """A fresh key, sealed to each of these members that is trusted."""
    key = secrets.token_bytes(KEY_BYTES)
    shares = tuple(
        KeyShare(purpose, generation, member.node_id, seal_to(member.public_key, key))
        for member in sorted(members.values(), key=lambda member: member.node_id)
        if member.trusted
    )
    return KeyGeneration(purpose, generation, now_ms, shares, False)
