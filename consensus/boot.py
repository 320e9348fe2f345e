"""Which start of a node this is, and whose memory a replica's messages come from (rule T3).

A node's memory may be lost, copied or rolled back behind its owner's back. Three facts tell these apart: `store_id`,
born with the log; the counter of starts, durable before anything is sent; a random nonce of this start.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consensus.disk import Disk, read_file, replace_file
from consensus.raft.messages import ReplicaMark
from consensus.records import BootMark, Member, MemberStatus
from mesh.errors import DamagedError
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
            )
        _, counter = _STORED.unpack(packed)
    packed = _STORED.pack(_MAGIC, counter + 1)
    replace_file(disk, BOOT_FILE, packed + _CRC.pack(zlib.crc32(packed)))
    return BootMark(store_id, counter + 1, random_bytes(NONCE_BYTES))


def mark_of(node_id: NodeId, boot: BootMark) -> ReplicaMark:
    """How this start signs its Raft messages."""
    return ReplicaMark(node_id, boot.store_id, boot.counter, boot.nonce)


@dataclass(frozen=True, slots=True)
class _Seen:
    store_id: bytes
    counter: int
    nonce: bytes


class Fence:
    """Decides whose Raft messages count; one a node, fed by its copy of the ledger and by the messages themselves.

    A start that the ledger does not know *yet* is let in when it is the newest of a known store: after a power cut
    every node is such, and only their votes can make the ledger move again. Of two starts with one counter the first
    one heard is let in until the ledger has decided which lives.
    """

    def __init__(self) -> None:
        self._seen: dict[NodeId, _Seen] = {}

    def refusal(
        self, mark: ReplicaMark, members: Mapping[NodeId, Member], configured: frozenset[NodeId], *, is_vote: bool
    ) -> str | None:
        """Why this sender's message is dropped, or None; an admitted mark is remembered.

        Args:
            mark: The sender.
            members: The ledger's, as far as it is applied here.
            configured: Whom the group's newest configuration names: one may stand there before its entry is applied.
            is_vote: The message grants a vote. A replica that lost its memory may have voted before.
        """
        member = members.get(mark.node_id)
        if member is None:
            if mark.node_id not in configured:
                return "not a member"
        elif member.status is MemberStatus.REMOVED:
            return "removed from the mesh"
        else:
            known = member.boot
            refused = _compare(_Seen(known.store_id, known.counter, known.nonce), mark)
            if refused is not None:
                return refused
            if member.relearn and is_vote:
                return "its log is new: its votes do not count yet"
        seen = self._seen.get(mark.node_id)
        if seen is not None and seen.store_id == mark.store_id:
            refused = _compare(seen, mark)
            if refused is not None:
                return refused
        self._seen[mark.node_id] = _Seen(mark.store_id, mark.boot_counter, mark.boot_nonce)
        return None

    def forget(self, node_id: NodeId) -> None:
        """The ledger has decided about this node: its entry alone counts now."""
        self._seen.pop(node_id, None)


def _compare(known: _Seen, mark: ReplicaMark) -> str | None:
    if mark.store_id != known.store_id:
        return "its log is not the one that the mesh knows"
    if mark.boot_counter < known.counter:
        return f"an old copy: start {mark.boot_counter}, known is {known.counter}"
    if mark.boot_counter == known.counter and mark.boot_nonce != known.nonce:
        return "another copy of it started first"
    return None
