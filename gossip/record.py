"""What a node says of itself: its record, signed by it, spread by everyone (rule G3).

The record is whole each time; what travels is whichever whole record is newer than the one a peer has, so that a
record never mixes two versions (users' lesson from whole-object updates). It is at most 4 KiB sealed, and what
changes fast in it (load) is coarse and rate-limited by its owner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from math import inf

from mesh.errors import ExhaustedError, ProtocolError, UpgradeNeeded
from mesh.names import NodeId
from mesh.versioned import Codec, Limits

RECORD_BYTES_MAX = 4096
"""Of one encoded record. memberlist allows 512 B; ours names what runs where, which ingress needs everywhere."""

RECORD = Codec(Limits(total_bytes_max=RECORD_BYTES_MAX, text_bytes_max=512, bytes_max=RECORD_BYTES_MAX, items_max=200))

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


Version = tuple[int, int]
"""(boot counter, version): what records of one node are ordered by."""

Sign = Callable[[bytes, bytes], bytes]
"""(domain, message) -> this node's signature."""

NOTHING: Version = (0, 0)


def version_of(record: SignedRecord) -> Version:
    return (record.boot_counter, record.version)


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """A record that was checked once and need not be again."""

    signed: SignedRecord
    record: NodeRecord
    heard_at: float


class RecordBook:
    """The newest record of every member, and when this node's own is due again.

    Args:
        me: This node, whose records are made here and taken from nobody.
        boot_counter: Of this start.
        slow_facts_s: Least time between two own records that differ only in what `_without_slow_facts` hides.
        verify: (public key, domain, message, signature) -> whether it is the owner's.
    """

    def __init__(
        self,
        me: NodeId,
        *,
        boot_counter: int,
        slow_facts_s: float,
        sign: Sign,
        verify: Callable[[bytes, bytes, bytes, bytes], bool],
    ) -> None:
        self._me = me
        self._sign = sign
        self._verify = verify
        self._slow_facts_s = slow_facts_s
        self._version: Version = (boot_counter, 0)
        self._issued_at = -inf
        self._pending: NodeRecord | None = None
        self._due = inf
        self._held: dict[NodeId, HeldRecord] = {}
        self.refused = 0

    def get(self, node_id: NodeId) -> HeldRecord | None:
        return self._held.get(node_id)

    def version(self, node_id: NodeId) -> Version:
        """The version that is held of a node's record."""
        held = self._held.get(node_id)
        return NOTHING if held is None else version_of(held.signed)

    @property
    def own_version(self) -> Version:
        """The newest that this start issued; (boot counter, 0) before it issued any."""
        return self._version

    def forget(self, node_id: NodeId) -> None:
        self._held.pop(node_id, None)

    def publish(self, now: float, record: NodeRecord) -> None:
        """This is what the node says of itself now; it is issued when due, and not at all if nothing changed.

        Raises:
            ExhaustedError: It is too large even without details and bundles; the last one stands.
        """
        record = replace(record, node_id=self._me, boot_counter=0, version=0)
        held = self._held.get(self._me)
        known = self._pending or (None if held is None else replace(held.record, boot_counter=0, version=0))
        if record == known:
            return
        record = fitted(record)
        slow = known is not None and _without_slow_facts(record) == _without_slow_facts(known)
        self._pending = record
        self._due = min(self._due, self._issued_at + self._slow_facts_s if slow else now)

    def next_deadline(self) -> float:
        return self._due

    def issue(self, now: float) -> SignedRecord | None:
        """The next own record, numbered and signed, if one is due."""
        if self._pending is None or now < self._due:
            return None
        boot_counter, version = self._version
        self._version = (boot_counter, version + 1)
        record = replace(self._pending, boot_counter=boot_counter, version=version + 1)
        self._pending, self._due, self._issued_at = None, inf, now
        encoded = RECORD.encode(record)
        signature = self._sign(SIGNING_DOMAIN, encoded)
        signed = SignedRecord(self._me, boot_counter, version + 1, encoded, signature)
        self._held[self._me] = HeldRecord(signed, record, now)
        return signed

    def accept(self, now: float, signed: SignedRecord, public_key: bytes) -> bool:
        """Keep a member's record if it is newer than the one held; True if it was.

        One of our own that is newer than we ever issued was made by this home in a life we do not remember (an
        emptied disk, an old copy): the next own record is numbered above it, or nobody would believe us.
        """
        newest = self._version if signed.node_id == self._me else self.version(signed.node_id)
        if version_of(signed) <= newest:
            return False
        record = self._checked(signed, public_key)
        if record is None:
            self.refused += 1
            return False
        if signed.node_id == self._me:
            self._version = version_of(signed)
            held = self._held.get(self._me)
            if self._pending is None and held is not None:
                self._pending = replace(held.record, boot_counter=0, version=0)
            self._due = inf if self._pending is None else now
            return False
        self._held[signed.node_id] = HeldRecord(signed, record, now)
        return True

    def _checked(self, signed: SignedRecord, public_key: bytes) -> NodeRecord | None:
        """The record inside, if its owner signed these bytes and they say what the envelope says."""
        if not self._verify(public_key, SIGNING_DOMAIN, signed.record, signed.signature):
            return None
        try:
            record = RECORD.decode(signed.record, NodeRecord)
        except (ProtocolError, UpgradeNeeded):
            return None
        inside = (record.node_id, record.boot_counter, record.version)
        return record if inside == (signed.node_id, signed.boot_counter, signed.version) else None


def fitted(record: NodeRecord) -> NodeRecord:
    """The record made to fit: details go first, then the bundles (others then ask instead of looking it up).

    Raises:
        ExhaustedError: The replicas alone are too many.
    """
    room = RECORD_BYTES_MAX - 32  # boot counter and version are still to be filled in
    bare = replace(record, replicas=tuple(replace(report, detail=report.detail[:120]) for report in record.replicas))
    for candidate in (
        bare,
        replace(bare, replicas=tuple(replace(report, detail="") for report in bare.replicas)),
        replace(bare, replicas=tuple(replace(report, detail="") for report in bare.replicas), bundles=()),
    ):
        if len(RECORD.encode(candidate)) <= room:
            return candidate
    raise ExhaustedError(
        f"this node's record is over {RECORD_BYTES_MAX} bytes",
        why=f"it runs {len(record.replicas)} replicas",
        hint="move some of them to other nodes",
        code="limit.record",
    )


def _without_slow_facts(record: NodeRecord) -> NodeRecord:
    """What is left when load and the like are hidden: a change in this is worth telling at once."""
    return replace(record, load_percent=0, disk_free_bytes=0, ledger_index=0)
