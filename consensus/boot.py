"""Which start of a node this is, and whose memory a replica's messages come from (rule T3).

A node's memory may be lost, copied or rolled back behind its owner's back. Three facts tell these apart: `store_id`,
born with the log; the counter of starts, durable before anything is sent; a random nonce of this start.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from consensus.disk import Disk, read_file, replace_file
from consensus.group_effects import Fenced, PeerFact, PeerFacts, StateMachine
from consensus.ledger_state import LedgerState
from consensus.raft.messages import ReplicaMark
from consensus.records import BootMark
from mesh.errors import DamagedError, FencedError
from mesh.names import NodeId

BOOT_FILE = "boot"
NONCE_BYTES = 8
_STORED = struct.Struct("<8sQ")
_MAGIC = b"fc-boot1"
_CRC = struct.Struct("<I")


def next_boot(disk: Disk, store_id: bytes, random_bytes: Callable[[int], bytes]) -> BootMark:
    """Count this start, durably, and name it.

    Args:
        disk: The folder that holds the counter: the home itself, not the log's folder.
        store_id: The log's.
        random_bytes: Where the nonce comes from.

    Raises:
        DamagedError: The counter is unreadable. It is not begun anew: a lower one would look like an old copy.
    """
    counter = 0
    if BOOT_FILE in disk.list():
        payload = read_file(disk, BOOT_FILE)
        packed, crc = payload[: _STORED.size], payload[_STORED.size :]
        if len(packed) != _STORED.size or crc != _CRC.pack(zlib.crc32(packed)) or packed[:8] != _MAGIC:
            raise DamagedError(
                "the counter of starts is damaged",
                why=f"file {BOOT_FILE}",
                hint="move it and the log away: the node returns with an empty log and learns everything anew",
                code="damaged.boot",
            )
        _, counter = _STORED.unpack(packed)
    packed = _STORED.pack(_MAGIC, counter + 1)
    replace_file(disk, BOOT_FILE, packed + _CRC.pack(zlib.crc32(packed)))
    return BootMark(store_id, counter + 1, random_bytes(NONCE_BYTES))


def mark_of(node_id: NodeId, boot: BootMark) -> ReplicaMark:
    """How this start signs its Raft messages."""
    return ReplicaMark(node_id, boot.store_id, boot.counter, boot.nonce)


def peer_facts(machine: StateMachine) -> PeerFacts:
    """What the ledger says of each node's memory, for the group's Raft replica."""
    assert isinstance(machine, LedgerState), "only the ledger knows members"

    def fact_of(node_id: NodeId) -> PeerFact | None:
        member = machine.members.get(node_id)
        return None if member is None else PeerFact(member.boot.store_id, may_vote=not member.relearn)

    return fact_of


def fenced_error(event: Fenced) -> FencedError:
    """How a fence is told: `fenced.clone` ends the node, after `fenced.diverged` it begins anew with an empty log."""
    if event.is_replaced:
        return FencedError(
            "another copy of this node has taken its place",
            why=event.why,
            hint="one home, one machine: remove the copy, or give it an identity of its own by joining anew",
            code="fenced.clone",
        )
    return FencedError(
        "this node's memory is not the mesh's any more",
        why=event.why,
        hint="it is moved to lost+found, and the node learns everything anew",
        code="fenced.diverged",
    )
