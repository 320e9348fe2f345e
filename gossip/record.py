"""What a node says of itself: its record, signed by it, spread by everyone (rule G3).

The record is whole each time; what travels is whichever whole record is newer than the one a peer has, so that a
record never mixes two versions (users' lesson from whole-object updates). It is at most 4 KiB sealed, and what
changes fast in it (load) is coarse and rate-limited by its owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.names import NodeId
from mesh.versioned import Codec, Limits

RECORD = Codec(Limits(total_bytes_max=4096, text_bytes_max=512, bytes_max=4096, items_max=200))

SIGNING_DOMAIN = b"freecloud-record-1"


class ReplicaHealth(Enum):
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """One replica that this node runs, as its runner sees it."""

    replica_id: str
    app: str
    release: int
    assignment_index: int
    health: ReplicaHealth
    port: int  # where its ingress can reach it on this node's loopback; 0: nowhere yet
    restarts: int
    detail: str  # last reason, at most 120 characters


@RECORD.message("gossip.record")
@dataclass(frozen=True, slots=True)
class NodeRecord:
    node_id: NodeId
    boot_counter: int  # versions of a later start win over any of an earlier one
    version: int  # rises with every change within a start
    name: str
    mesh_addresses: tuple[str, ...]  # host:port, TCP and UDP alike
    ingress_address: str  # host:port; "" when it has no ingress
    api_address: str
    program_version: str
    feature_level: int
    cpus: float
    memory_bytes: int
    disk_free_bytes: int
    load_percent: int  # coarse: steps of 10
    takes_apps: bool
    sandbox: str  # rung of the ladder: "bubblewrap" | "uid" | "landlock" | "none"
    ledger_index: int  # applied, coarse
    leader: str  # whom it takes for the leader of the ledger; "" when it knows none
    bundles: tuple[str, ...]  # first 16 hex digits of each bundle it holds (at most 64)
    replicas: tuple[ReplicaReport, ...]


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """The record's bytes as its owner signed them, so that any node may pass them on unchanged."""

    node_id: NodeId
    boot_counter: int
    version: int
    record: bytes  # RECORD.encode(NodeRecord)
    signature: bytes  # Ed25519 over SIGNING_DOMAIN + record
