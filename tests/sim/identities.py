"""Who the simulated nodes are: real Ed25519 keys, each from its node's name, so that ids are the same in every run."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from nacl.signing import SigningKey

from consensus.records import BootMark, Member, MemberStatus
from mesh.names import NodeId, node_id_of


@lru_cache(maxsize=1024)
def signing_key(name: str) -> SigningKey:
    """The node's key."""
    return SigningKey(hashlib.blake2b(name.encode(), digest_size=32, person=b"sim-node").digest())


@lru_cache(maxsize=1024)
def public_key(name: str) -> bytes:
    """Its public half."""
    return bytes(signing_key(name).verify_key)


@lru_cache(maxsize=1024)
def node_id(name: str) -> NodeId:
    """The id of the node of this name."""
    return node_id_of(public_key(name))


def member(name: str, *, may_vote: bool, boot: BootMark) -> Member:
    """The ledger's record of the node, as its own join would state it."""
    return Member(
        node_id=node_id(name),
        name=name,
        public_key=public_key(name),
        certificate=b"",
        trusted=True,
        may_invite=may_vote,
        may_vote=may_vote,
        zone="",
        provider="",
        labels=(),
        addresses=(),
        status=MemberStatus.ACTIVE,
        boot=boot,
        joined_ms=0,
        seen_alive=False,
        feature_level=1,
        away_until_ms=0,
        relearn=False,
    )
