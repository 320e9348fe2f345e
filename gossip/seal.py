"""Sealed datagrams: a ring of mesh keys, of which the first seals and all open, and a replay window per sender.

    byte     what
    0        format (1)
    1..4     generation of the key
    5..20    sender (the 128 bits of its node id)
    21..28   boot counter of the sender's start
    29..36   boot nonce of the sender's start
    37..44   counter of the datagram
    45..     AES-256-GCM ciphertext and tag; the first 45 bytes are its AAD

Each (key, sender, boot counter, boot nonce) has an AES key of its own, derived from the mesh key, under which the
counter is the nonce: no pair is ever used twice, though all nodes share the ring and none keeps a counter on disk.

Source: SP 800-38D §8.2.1 (deterministic nonces); the window of RFC 6479; attacks 11, 12 and 42 of the threat model.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.errors import FailedError, ProtocolError
from mesh.names import NodeId, base32

FORMAT = 1
_HEADER = struct.Struct(">BI16sQ8sQ")
HEADER_BYTES = _HEADER.size
SEAL_OVERHEAD_BYTES = HEADER_BYTES + 16

WINDOW_BITS = 1024
"""How far behind the newest a datagram may arrive: at 5,000 a second, 0.2 s of reordering."""

QUIET_S = 30.0
"""A start with a *lower* boot counter is heard only when the higher one was silent for so long, or once the ledger has
named it: a node whose disk was emptied comes back with a lower one, while a recorded datagram of an earlier start must
not displace a live one."""

ROTATION_GRACE_S = 5.0
"""A new first key opens at once and seals only after this: by then the ledger has brought it to the others too."""


@dataclass(frozen=True, slots=True)
class GossipKey:
    generation: int
    key: bytes  # 32 bytes

    def __post_init__(self) -> None:
        if len(self.key) != 32 or not 0 <= self.generation < 2**32:
            raise ValueError("a gossip key has 32 bytes and a generation below 2^32")


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of the mesh, newest first: the first seals, every one opens."""

    keys: tuple[GossipKey, ...]

    def __post_init__(self) -> None:
        if len({key.generation for key in self.keys}) != len(self.keys):
            raise ValueError("two gossip keys of one generation")

    def get(self, generation: int) -> GossipKey | None:
        return next((key for key in self.keys if key.generation == generation), None)


@dataclass(slots=True)
class _Window:
    """Which counters of one start were heard: bit n of `seen` stands for `newest` - n."""

    newest: int = -1
    seen: int = 0

    def fresh(self, counter: int) -> bool:
        if counter > self.newest:
            return True
        behind = self.newest - counter
        return behind < WINDOW_BITS and not self.seen >> behind & 1

    def note(self, counter: int) -> None:
        if counter > self.newest:
            shift = counter - self.newest
            self.seen = (self.seen << shift if shift < WINDOW_BITS else 0) | 1
            self.seen &= (1 << WINDOW_BITS) - 1
            self.newest = counter
        else:
            self.seen |= 1 << self.newest - counter


@dataclass(slots=True)
class _Sender:
    """The one start of a sender that is heard at present."""

    boot_counter: int
    boot_nonce: bytes
    heard_at: float
    window: _Window = field(default_factory=_Window)
    ciphers: dict[int, AESGCM] = field(default_factory=dict)  # by generation


@dataclass(frozen=True, slots=True)
class SealStatistics:
    refused_key: int
    refused_tag: int
    refused_replay: int
    refused_sender: int
    twins: int  # datagrams of another live start with the same counter (rule T3)


class Seal:
    """Seals this node's datagrams and opens the others'.

    Args:
        boot_counter: Of this start, fsynced before: with the nonce it makes the AES key unique to the start.
        boot_nonce: Random bytes of this start.
        is_member: Whose datagrams are opened at all.
    """

    def __init__(
        self,
        ring: KeyRing,
        *,
        me: NodeId,
        boot_counter: int,
        boot_nonce: bytes,
        is_member: Callable[[NodeId], bool],
    ) -> None:
        self._ring = ring
        self._me = _raw_id(me)
        self._boot_counter = boot_counter
        self._boot_nonce = _wire_nonce(boot_nonce)
        self._is_member = is_member
        self._counter = 0
        self._cipher: tuple[int, AESGCM] | None = None
        self._outgoing: GossipKey | None = None
        self._outgoing_until = 0.0
        self._senders: dict[NodeId, _Sender] = {}
        self._named: dict[NodeId, tuple[int, bytes]] = {}
        self._awaited: dict[NodeId, tuple[int, bytes]] = {}  # the ledger has named it, and it was not heard since
        self._refused = {"key": 0, "tag": 0, "replay": 0, "sender": 0, "twin": 0}

    def statistics(self) -> SealStatistics:
        count = self._refused
        return SealStatistics(count["key"], count["tag"], count["replay"], count["sender"], count["twin"])

    def set_ring(self, now: float, ring: KeyRing) -> None:
        """Open with these keys from now on, and seal with the first of them once the others had time to learn it."""
        before = self._ring.keys[0] if self._ring.keys else None
        if ring.keys and before is not None and ring.keys[0] != before and ring.get(before.generation) == before:
            self._outgoing, self._outgoing_until = before, now + ROTATION_GRACE_S
        elif self._outgoing is not None and ring.get(self._outgoing.generation) != self._outgoing:
            self._outgoing = None
        self._ring = ring
        for sender in self._senders.values():
            sender.ciphers = {
                generation: cipher for generation, cipher in sender.ciphers.items() if ring.get(generation)
            }

    def set_starts(self, starts: Mapping[NodeId, tuple[int, bytes]]) -> None:
        """The start of each member that the ledger names: (boot counter, boot nonce).

        One that was named anew is heard at once, though its counter be lower: that of an emptied disk begins anew.
        """
        for node_id, start in starts.items():
            if self._named.get(node_id) != start:
                self._awaited[node_id] = (start[0], _wire_nonce(start[1]))
        self._named = dict(starts)

    def keep_only(self, node_ids: frozenset[NodeId]) -> None:
        """Forget the windows of those who are no members any more."""
        self._awaited = {node_id: start for node_id, start in self._awaited.items() if node_id in node_ids}
        self._senders = {node_id: sender for node_id, sender in self._senders.items() if node_id in node_ids}

    def seal(self, now: float, plaintext: bytes) -> bytes:
        """The datagram for these bytes.

        Raises:
            FailedError: The ring is empty: this node was given no key yet.
        """
        if not self._ring.keys:
            raise FailedError("no gossip key to seal with", why="none was shared with this node yet")
        first = self._ring.keys[0]
        if self._outgoing is not None and now < self._outgoing_until:
            first = self._outgoing
        if self._cipher is None or self._cipher[0] != first.generation:
            self._cipher = (first.generation, _cipher(first, self._me, self._boot_counter, self._boot_nonce))
        header = _HEADER.pack(
            FORMAT, first.generation, self._me, self._boot_counter, self._boot_nonce, self._counter
        )
        sealed = self._cipher[1].encrypt(_nonce(self._counter), plaintext, header)
        self._counter += 1
        return header + sealed

    def open(self, now: float, datagram: bytes) -> tuple[NodeId, bytes]:
        """The sender and the bytes it sealed; each datagram opens once.

        Raises:
            ProtocolError: Damaged, replayed, by no member, or under a key that is not in the ring. Nothing changed
                but a count.
        """
        if len(datagram) < SEAL_OVERHEAD_BYTES or datagram[0] != FORMAT:
            raise self._refuse("tag", "not a sealed datagram")
        _, generation, raw_id, boot_counter, boot_nonce, counter = _HEADER.unpack_from(datagram)
        node_id = NodeId(base32(raw_id))
        if raw_id == self._me or not self._is_member(node_id):
            raise self._refuse("sender", "a datagram of no member")
        key = self._ring.get(generation)
        if key is None:
            raise self._refuse("key", f"sealed with key generation {generation}")
        known = self._senders.get(node_id)
        sender = known
        if known is None or (known.boot_counter, known.boot_nonce) != (boot_counter, boot_nonce):
            if known is not None and self._awaited.get(node_id) != (boot_counter, boot_nonce):
                self._check_other_start(now, known, boot_counter)
            sender = _Sender(boot_counter, boot_nonce, now)
        assert sender is not None
        if not sender.window.fresh(counter):
            raise self._refuse("replay", "a datagram heard before")
        cipher = sender.ciphers.get(generation) or _cipher(key, raw_id, boot_counter, boot_nonce)
        try:
            plaintext = cipher.decrypt(_nonce(counter), datagram[HEADER_BYTES:], datagram[:HEADER_BYTES])
        except InvalidTag:
            raise self._refuse("tag", "a damaged datagram") from None
        sender.ciphers[generation] = cipher
        sender.window.note(counter)
        sender.heard_at = now
        self._senders[node_id] = sender
        if self._awaited.get(node_id) == (boot_counter, boot_nonce):
            del self._awaited[node_id]
        return node_id, plaintext

    def _check_other_start(self, now: float, known: _Sender, boot_counter: int) -> None:
        """Whether another start of a known sender may take its place (it still has to prove itself)."""
        if boot_counter > known.boot_counter or now - known.heard_at > QUIET_S:
            return
        if boot_counter == known.boot_counter:
            raise self._refuse("twin", "two starts of one node with one boot counter")
        raise self._refuse("replay", "a datagram of an earlier start")

    def _refuse(self, kind: str, what: str) -> ProtocolError:
        self._refused[kind] += 1
        return ProtocolError(what, code=f"gossip.{kind}")


def _wire_nonce(boot_nonce: bytes) -> bytes:
    """A start's nonce as it stands in a datagram's header."""
    return hashlib.blake2b(boot_nonce, digest_size=8).digest()


def _raw_id(node_id: NodeId) -> bytes:
    return base64.b32decode(node_id.upper() + "=" * (-len(node_id) % 8))


def _cipher(key: GossipKey, raw_id: bytes, boot_counter: int, boot_nonce: bytes) -> AESGCM:
    """The AES key of one start of one sender under one mesh key."""
    context = raw_id + boot_counter.to_bytes(8, "big") + boot_nonce
    return AESGCM(hashlib.blake2b(context, key=key.key, digest_size=32, person=b"freecloud-gossip").digest())


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
