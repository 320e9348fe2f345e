"""Which start of a node this is, and whose memory a replica's messages come from (rule T3).

A node's memory may be lost, copied or rolled back behind its owner's back. These facts tell the cases apart:
`store_id`, born with the log; the counter of starts, durable before anything is sent; a random nonce of this start; the
thread of starts, whose end both the home and the ledger know; and the place of the home, which no copy shares.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from consensus.disk import Disk, read_file, replace_file
from consensus.group_effects import Fenced, PeerFact, PeerFacts, StateMachine
from consensus.ledger_state import LedgerState
from consensus.raft.messages import ReplicaMark
from consensus.records import BootMark
from mesh.errors import DamagedError, FencedError
from mesh.names import NodeId

BOOT_FILE = "boot"
NONCE_BYTES = 8
FOLLOWS_MAX = 16
"""Starts in a row of which the home does not know whether they were registered; one that forgot more begins anew."""

_MAGIC_1 = b"fc-boot1"  # the counter alone
_MAGIC = b"fc-boot2"
_STORED_1 = struct.Struct("<8sQ")
_STORED = struct.Struct("<8sQQB")
_MARK = struct.Struct("<16sQ8s")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a node, and what its home remembers of those before it."""

    boot: BootMark
    follows: tuple[BootMark, ...]  # the ledger names one of these, if it names a start of this very memory
    copied: bool  # the home does not lie where it was written: what its original promised since is not in it


def next_start(disk: Disk, store_id: bytes, random_bytes: Callable[[int], bytes], *, place: int = 0) -> Start:
    """Count this start, durably, and name it.

    Args:
        disk: The folder that holds the counter: the home itself, not the log's folder.
        store_id: The log's.
        random_bytes: Where the nonce comes from.
        place: A number that a copy of the home has another of.

    Raises:
        DamagedError: The counter is unreadable. It is not begun anew: a lower one would look like an old copy.
    """
    counter, written_at, follows = _load(disk) if BOOT_FILE in disk.list() else (0, place, ())
    written_at = written_at or place  # an older version did not note it
    boot = BootMark(store_id, counter + 1, random_bytes(NONCE_BYTES))
    # The first is the one that was surely registered; of the others it is not known.
    kept = (*follows[:1], *follows[1:][-(FOLLOWS_MAX - 2) :], boot)
    _save(disk, boot.counter, written_at, kept)
    return Start(boot, follows, copied=written_at != place)


def next_boot(disk: Disk, store_id: bytes, random_bytes: Callable[[int], bytes]) -> BootMark:
    """`next_start` for who looks at nothing but its name."""
    return next_start(disk, store_id, random_bytes).boot


def note_registered(disk: Disk, boot: BootMark, *, place: int = 0) -> None:
    """The ledger names this start: the next one follows on it alone, and the home belongs where it lies."""
    _save(disk, boot.counter, place, (boot,))


def _load(disk: Disk) -> tuple[int, int, tuple[BootMark, ...]]:
    payload = read_file(disk, BOOT_FILE)
    packed, crc = payload[: -_CRC.size], payload[-_CRC.size :]
    if crc == _CRC.pack(zlib.crc32(packed)):
        if packed[:8] == _MAGIC_1 and len(packed) == _STORED_1.size:
            return _STORED_1.unpack(packed)[1], 0, ()
        if packed[:8] == _MAGIC and len(packed) >= _STORED.size:
            _, counter, place, count = _STORED.unpack_from(packed)
            if len(packed) == _STORED.size + count * _MARK.size:
                marks = _MARK.iter_unpack(packed[_STORED.size :])
                return counter, place, tuple(BootMark(*mark) for mark in marks)
    raise DamagedError(
        "the counter of starts is damaged",
        why=f"file {BOOT_FILE}",
        hint="move it and the log away: the node returns with an empty log and learns everything anew",
        code="damaged.boot",
    )


def _save(disk: Disk, counter: int, place: int, follows: tuple[BootMark, ...]) -> None:
    packed = _STORED.pack(_MAGIC, counter, place, len(follows))
    packed += b"".join(_MARK.pack(mark.store_id, mark.counter, mark.nonce) for mark in follows)
    replace_file(disk, BOOT_FILE, packed + _CRC.pack(zlib.crc32(packed)))


def mark_of(node_id: NodeId, boot: BootMark) -> ReplicaMark:
    """How this start signs its Raft messages."""
    return ReplicaMark(node_id, boot.store_id, boot.counter, boot.nonce)


def peer_facts(machine: StateMachine) -> PeerFacts:
    """What the ledger says of each node's memory, for the group's Raft replica."""
    assert isinstance(machine, LedgerState), "only the ledger knows members"

    def fact_of(node_id: NodeId) -> PeerFact | None:
        member = machine.members.get(node_id)
        return None if member is None else PeerFact(mark_of(node_id, member.boot), may_vote=not member.relearn)

    return fact_of


class Doubt:
    """This node's own doubt about its memory: a copied home has not what its original promised since (rule T3).

    As long as there is any, it gives no vote. Either the mesh has it begin anew, or its owner opens an epoch from it.
    """

    def __init__(self, me: NodeId, *, doubted: bool) -> None:
        self._me = me
        self.doubted = doubted

    def peer_facts(self, machine: StateMachine) -> PeerFacts:
        """`peer_facts`, and the doubt about this node."""
        known = peer_facts(machine)

        def fact_of(node_id: NodeId) -> PeerFact | None:
            fact = known(node_id)
            if node_id != self._me or not self.doubted:
                return fact
            return PeerFact(fact.mark if fact is not None else ReplicaMark(node_id, b"", 0, b""), may_vote=False)

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
