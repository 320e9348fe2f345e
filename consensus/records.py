"""What the ledger holds, record by record. All frozen; a change is a new record under the same key.

Times are whole milliseconds since the epoch by the *leader's* clock at the moment it took the proposal; they are
shown to people and compared with expiries, and order nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.names import MeshId, NodeId

Labels = tuple[tuple[str, str], ...]
"""Sorted (key, value) pairs."""


class MemberStatus(Enum):
    ACTIVE = "active"
    DRAINING = "draining"  # a member in full, but nothing new is placed on it and its apps move away
    REMOVED = "removed"  # a tombstone: its key is refused for ever (rule T1, attack 6)


@dataclass(frozen=True, slots=True)
class BootMark:
    """Which memory and which start of a node the ledger knows (rule T3)."""

    store_id: bytes  # 16 random bytes, born with the log
    counter: int  # fsynced, plus one with every start
    nonce: bytes  # 8 random bytes of this start


@dataclass(frozen=True, slots=True)
class Member:
    node_id: NodeId
    name: str
    public_key: bytes  # Ed25519, 32 bytes
    certificate: bytes  # DER, self-signed; exactly this one is accepted on a link
    trusted: bool
    may_invite: bool
    may_vote: bool  # trusted, durable disk, neither metered nor sleeping (rule C5)
    zone: str
    provider: str
    labels: Labels
    addresses: tuple[str, ...]  # host:port of the mesh listener as told at join; gossip knows better
    status: MemberStatus
    boot: BootMark
    joined_ms: int
    seen_alive: bool  # ever; one that never was is reaped after ten minutes (rule T2)
    feature_level: int
    away_until_ms: int  # 0: not away; planned absence (rule G4)
    relearn: bool  # its log is new since it was last a voter: learner first, and its votes do not count (rule T3)


@dataclass(frozen=True, slots=True)
class Invite:
    token_id: str
    public_key: bytes  # of the key seeded by the token's secret; the secret is nowhere in the ledger
    uses_max: int
    expires_ms: int
    issuer: NodeId
    trusted: bool  # what a joiner becomes
    labels: Labels
    used_by: tuple[NodeId, ...]
    voided: bool


@dataclass(frozen=True, slots=True)
class KeyShare:
    """One generation of a mesh key, sealed to one member (X25519 sealed box to its Ed25519 key)."""

    purpose: str  # "gossip" | "data"
    generation: int
    node_id: NodeId
    sealed: bytes


@dataclass(frozen=True, slots=True)
class KeyGeneration:
    purpose: str
    generation: int
    created_ms: int
    shares: tuple[KeyShare, ...]
    retire: bool  # a member that held it was removed: a new generation is due


@dataclass(frozen=True, slots=True)
class ApiToken:
    token_id: str
    name: str
    secret_hash: bytes  # BLAKE2b-256 of the secret half; compared in constant time
    scopes: tuple[str, ...]  # of "read", "deploy", "data", "admin"
    created_ms: int
    expires_ms: int  # 0: never


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """An app secret: ciphertext under the mesh's data key of that generation."""

    name: str
    generation: int
    ciphertext: bytes
    updated_ms: int


@dataclass(frozen=True, slots=True)
class Release:
    """One deployed version of an app; the number rises by one with each deploy."""

    app: str
    number: int
    bundle: str  # BLAKE3 of the source archive, hex
    bundle_bytes: int
    manifest: bytes  # scheduler.manifest's own encoding; opaque here
    manifest_text: str  # as the user wrote it
    created_ms: int
    holders: tuple[NodeId, ...]  # who had the bundle when this was proposed


class ReleaseState(Enum):
    ROLLING = "rolling"
    STABLE = "stable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class App:
    name: str
    current: int  # release number wanted now
    previous_stable: int  # what a rollback returns to; 0: none
    replicas: int  # wanted; starts as the manifest's, changed by scale
    state: ReleaseState  # of `current`
    reason: str  # why it failed or rolled back
    changed_ms: int  # when the current release was made current; the rollout's deadline counts from here
    next_replica: int  # number for the next replica's id


@dataclass(frozen=True, slots=True)
class Assignment:
    """One replica of one release on one node. Its `index` fences what acts in its name (rule A1, fault O2)."""

    replica_id: str  # "web-7"
    app: str
    release: int
    node: NodeId
    index: int  # ledger index of the entry that made it
    created_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Out:
    """A node that was down too long: its replicas belong elsewhere until it is back (DESIGN idea 1)."""

    node_id: NodeId
    since_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Session:
    """One proposer's last answered request, so that a retry is answered and never run twice (pitfall 27)."""

    session_id: bytes  # the ledger index of the OpenSession that made it, 8 bytes big-endian: never given twice
    node_id: NodeId
    sequence: int  # of the last applied proposal; 0: none yet
    result: bytes  # its encoded result; b"" for none
    last_index: int  # ledger index of its last use; the oldest goes when there are too many


@dataclass(frozen=True, slots=True)
class MeshRecord:
    """The mesh itself."""

    mesh_id: MeshId
    epoch: int  # raised by `freecloud recover` alone (rule T5)
    feature_level: int
    created_ms: int
