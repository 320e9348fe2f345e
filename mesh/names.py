"""The names everything is called by: nodes, meshes, members' roles.

A node's id is a hash of its public key (rule T1): it can be computed by anyone who has the key and chosen by no one.
"""

from __future__ import annotations

import base64
import hashlib
from enum import Enum
from typing import NewType

NodeId = NewType("NodeId", str)
"""26 characters of lower-case base32: 128 bits of BLAKE2b over the Ed25519 public key."""

MeshId = NewType("MeshId", str)
"""26 characters of lower-case base32, drawn at random when a mesh is made."""


def node_id_of(public_key: bytes) -> NodeId:
    """The id of the node that owns this 32-byte Ed25519 public key."""
    if len(public_key) != 32:
        raise ValueError("an Ed25519 public key has 32 bytes")
    return NodeId(base32(hashlib.blake2b(public_key, digest_size=16, person=b"freecloud-node").digest()))


def base32(raw: bytes) -> str:
    """Lower-case base32 without padding."""
    return base64.b32encode(raw).decode().rstrip("=").lower()


class Role(Enum):
    """What a caller must be for a method to serve it; looked up in the ledger at every call, never remembered.

    Each includes the ones above it in this list, but for ANYONE, which is for the joining handshake alone.
    """

    ANYONE = "anyone"
    MEMBER = "member"
    TRUSTED = "trusted"
    VOTER = "voter"
