"""Everything that gossip says on a wire: bodies, updates, the packet that holds them, and the push-pull calls.

Two kinds of statement travel. A *claim* is made by a node about itself and signed by it: one claim per incarnation,
and only the owner makes the next one. An *accusation* (Suspect, Dead) is made by others and carries the very claim
that it is about, so that an accusation at an incarnation its subject never signed cannot be made (pitfall 33).

Source: SWIM (DSN'02) §4.2; refutation and nacks: Lifeguard (DSN'18) §III.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gossip.record import SignedRecord
from mesh.errors import UpgradeNeeded
from mesh.names import NodeId
from mesh.versioned import Codec, Limits

GOSSIP = Codec(Limits(total_bytes_max=64 * 1024, text_bytes_max=256, bytes_max=8192, items_max=2000))

CLAIM_DOMAIN = b"freecloud-claim-1"
SIGNATURE_BYTES = 64
ADDRESS_LENGTH_MAX = 80
INCARNATION_MAX = 2**62
BOOT_SHIFT = 24
"""A start's first incarnation is its boot counter shifted by this: above all of an earlier start, 16 M to go."""


def first_incarnation(boot_counter: int) -> int:
    """Where a start begins to count, so that the death of the one before cannot kill it (pitfall 33)."""
    return boot_counter << BOOT_SHIFT


class Standing(Enum):
    """What a node says of its own presence."""

    HERE = 1
    AWAY = 2  # planned absence until a time: no alarm, no copy storm (rule G4)
    LEFT = 3  # stopped on purpose


class StreamOutcome(Enum):
    """What the probe over the link gave; looked at last, so that a broken UDP path can be told."""

    NOT_TRIED = 0
    PENDING = 1
    ALIVE = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class ClaimBody:
    """What is signed."""

    node_id: NodeId
    incarnation: int
    standing: Standing
    until_ms: int  # wall time; 0 unless away
    address: str  # host:port for datagrams; "" when none is known


@GOSSIP.message("claim")
@dataclass(frozen=True, slots=True)
class Claim:
    body: ClaimBody
    signature: bytes  # Ed25519 by the node itself over `signed_bytes(body)`

    def __post_init__(self) -> None:
        if not 0 < self.body.incarnation < INCARNATION_MAX:
            raise ValueError("incarnation out of range")
        if len(self.body.address) > ADDRESS_LENGTH_MAX:
            raise ValueError("address too long")
        if len(self.signature) != SIGNATURE_BYTES:
            raise ValueError("a signature has 64 bytes")


@dataclass(frozen=True, slots=True)
class Evidence:
    """How an accuser came to its suspicion; for `nodes why`."""

    waited_ms: int
    helpers: int  # asked to probe for it
    nacks: int  # helpers that said "no answer here either"
    stream: StreamOutcome
    link_closed: bool  # the kernel of the accused closed its link before

    def __str__(self) -> str:
        parts = [f"no ack in {self.waited_ms} ms"]
        if self.helpers:
            silent = self.helpers - self.nacks
            asked = [f"{self.nacks} heard nothing either"] if self.nacks else []
            asked += [f"{silent} did not answer us"] if silent else []
            parts.append(f"{self.helpers} helpers asked: {' and '.join(asked)}")
        if self.stream is StreamOutcome.FAILED:
            parts.append("link silent too")
        if self.link_closed:
            parts.append("its link was closed")
        return ", ".join(parts)


@GOSSIP.message("suspect")
@dataclass(frozen=True, slots=True)
class Suspect:
    claim: Claim
    accuser: NodeId
    evidence: Evidence


@GOSSIP.message("dead")
@dataclass(frozen=True, slots=True)
class Dead:
    claim: Claim
    accuser: NodeId  # whose suspicion ran out first


@GOSSIP.message("record")
@dataclass(frozen=True, slots=True)
class RecordAdvert:
    """There is a newer record; whoever lacks it fetches it from whoever told."""

    node_id: NodeId
    boot_counter: int
    version: int


Accusation = Suspect | Dead
Statement = Claim | Suspect | Dead
Update = Claim | Suspect | Dead | RecordAdvert


@GOSSIP.message("ping")
@dataclass(frozen=True, slots=True)
class Ping:
    sequence: int
    target: NodeId  # another node that was given the address stays silent (fault N10)
    known_incarnation: int  # of the target, as the pinger knows it; if older, the answer brings the newer claim


@GOSSIP.message("ping-request")
@dataclass(frozen=True, slots=True)
class PingRequest:
    sequence: int
    target: NodeId


@GOSSIP.message("ack")
@dataclass(frozen=True, slots=True)
class Ack:
    sequence: int


@GOSSIP.message("nack")
@dataclass(frozen=True, slots=True)
class Nack:
    """A helper's "I am here, and your target did not answer me": tells our bad health from the target's."""

    sequence: int


@GOSSIP.message("rumour")
@dataclass(frozen=True, slots=True)
class Rumour:
    """Carries updates and asks nothing."""


Body = Ping | PingRequest | Ack | Nack | Rumour


@GOSSIP.message("packet")
@dataclass(frozen=True, slots=True)
class WirePacket:
    """One datagram before sealing; the updates stay encoded, so that a budget is a sum of lengths."""

    incarnation: int  # the sender's own
    record_boot: int
    record_version: int  # the sender's own record; a lost advert is noticed by the next probe
    body: Ping | PingRequest | Ack | Nack | Rumour
    updates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Packet:
    """One received datagram, decoded to the last field: nothing of a wrong shape gets further."""

    incarnation: int
    record_boot: int
    record_version: int
    body: Body
    updates: tuple[Update, ...]


UPDATE_OVERHEAD_BYTES = 3
"""What msgpack adds to one encoded update in a packet (bin 16)."""

PACKET_OVERHEAD_BYTES = 8
"""What the list of updates and their count may add to a packet without any."""


def decode_packet(payload: bytes) -> Packet:
    """The packet in an opened datagram.

    Updates of a kind newer than this program are left out: a mesh is upgraded node by node, and liveness must be told
    meanwhile (rule T6 is about what is applied and agreed).

    Raises:
        ProtocolError: It is no packet.
    """
    wire = GOSSIP.decode(payload, WirePacket)
    updates: list[Update] = []
    for raw in wire.updates:
        try:
            update: object = GOSSIP.decode(raw)
        except UpgradeNeeded:
            continue
        if isinstance(update, Claim | Suspect | Dead | RecordAdvert):
            updates.append(update)
    return Packet(wire.incarnation, wire.record_boot, wire.record_version, wire.body, tuple(updates))


@GOSSIP.message("claim-body")
@dataclass(frozen=True, slots=True)
class _Signed:
    body: ClaimBody


def signed_bytes(body: ClaimBody) -> bytes:
    """The bytes that a claim's signature is over."""
    return GOSSIP.encode(_Signed(body))


# Push-pull: digests first, then whole facts (rule G3). Every call is one request and one reply on the control lane.


@dataclass(frozen=True, slots=True)
class FactsDigest:
    """What one side knows of a member, in few bytes."""

    node_id: NodeId
    incarnation: int  # 0: nothing
    severity: int  # of the statement, as in `members.severity`
    record_boot: int
    record_version: int


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """All that is known of a member, with the signatures that prove it."""

    node_id: NodeId
    statement: Claim | Suspect | Dead | None
    record: SignedRecord | None


@GOSSIP.message("compare-all")
@dataclass(frozen=True, slots=True)
class CompareAll:
    """Are we equal? The usual case, for 16 bytes."""

    summary: bytes


@GOSSIP.message("compare-page")
@dataclass(frozen=True, slots=True)
class ComparePage:
    """Digests of some members, in the order of their ids."""

    digests: tuple[FactsDigest, ...]


@GOSSIP.message("fetch")
@dataclass(frozen=True, slots=True)
class FetchFacts:
    node_ids: tuple[NodeId, ...]


@GOSSIP.message("push")
@dataclass(frozen=True, slots=True)
class PushFacts:
    facts: tuple[MemberFacts, ...]


@GOSSIP.message("compared")
@dataclass(frozen=True, slots=True)
class Compared:
    equal: bool


@GOSSIP.message("page")
@dataclass(frozen=True, slots=True)
class PageFacts:
    """What the answering side knows better, and of whom it would like to hear."""

    through: str  # the last id that was looked at; the rest did not fit, and is asked for again
    facts: tuple[MemberFacts, ...]
    wanted: tuple[NodeId, ...]


@GOSSIP.message("merged")
@dataclass(frozen=True, slots=True)
class Merged:
    """The pushed facts were looked at."""


@GOSSIP.message("push-pull")
@dataclass(frozen=True, slots=True)
class PushPull:
    step: CompareAll | ComparePage | FetchFacts | PushFacts


@GOSSIP.message("push-pull-reply")
@dataclass(frozen=True, slots=True)
class PushPullReply:
    step: Compared | PageFacts | Merged


@GOSSIP.message("stream-probe")
@dataclass(frozen=True, slots=True)
class StreamProbe:
    """A ping over the link, for where datagrams do not pass."""

    sequence: int


@GOSSIP.message("stream-answer")
@dataclass(frozen=True, slots=True)
class StreamAnswer:
    sequence: int
    incarnation: int
