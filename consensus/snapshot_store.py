"""Snapshots of the groups' state machines as sealed files.

    snapshots/0000-000000000000270f-0000000000000003.snapshot    group, index, term

    magic 8 | format 2 | 0 2 | group 4 | index 8 | term 8 | payload length 8 | configuration length 4 | salt 16 | crc 4
    configuration (sealed), then the payload in sealed pieces of 1 MiB

Each file has a key of its own (master key, random salt); a piece's nonce is its number, and header, number and "this
is the last" are bound to it, so that pieces cannot be dropped, swapped or moved to another file (D4, D9).

A snapshot exists when its name does: temporary file, fsync, rename, fsync of the folder. One that does not open is
told as damaged; it never leads to a log being cut (pitfall 22).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consensus.disk import Disk, NoSpace
from consensus.raft.messages import RAFT, Configuration, SnapshotMeta
from mesh.errors import DamagedError, ProtocolError, UpgradeNeeded

SUFFIX = ".snapshot"
TEMPORARY = ".new"
PIECE_BYTES = 1024 * 1024
PAYLOAD_BYTES_MAX = 1024 * 1024 * 1024
"""A ledger beyond this is refused (limits page), so a longer snapshot is damage."""

KEPT = 2
"""Snapshots of a group that stay: should the newest turn out rotten, the one before may still serve with the log."""

_MAGIC = b"fcsnap01"
_FORMAT = 1
_HEADER = struct.Struct("<8sHHIQQQI16s")
_CRC = struct.Struct("<I")
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class SnapshotName:
    """Which snapshot; ordered by group and age."""

    group: int
    index: int
    term: int

    def file(self) -> str:
        return f"{self.group:04x}-{self.index:016x}-{self.term:016x}{SUFFIX}"


class SnapshotStore:
    """The snapshots in one folder.

    Args:
        disk: A folder of snapshots and of nothing else.
        key: 32 bytes, the node's key for data at rest.
        random_bytes: Where salts come from.
    """

    def __init__(self, disk: Disk, key: bytes, *, random_bytes: Callable[[int], bytes]) -> None:
        self._disk = disk
        self._key = key
        self._random_bytes = random_bytes
        for name in disk.list():
            if name.endswith(TEMPORARY):
                disk.remove(name)
        disk.sync_folder()  # a snapshot whose save died after its rename is relied on from now on

    def names(self, group: int) -> tuple[SnapshotName, ...]:
        """The group's snapshots, newest first."""
        found = [name for text in self._disk.list() if (name := _parsed(text)) is not None and name.group == group]
        return tuple(sorted(found, key=lambda name: (name.index, name.term), reverse=True))

    def save(self, group: int, meta: SnapshotMeta, payload: bytes) -> None:
        """Make a snapshot durable; one of the same index is replaced. Older ones beyond `KEPT` go.

        Raises:
            NoSpace: Nothing was changed.
            DiskError: The process must end.
        """
        name = SnapshotName(group, meta.index, meta.term).file()
        temporary = name + TEMPORARY
        self._disk.remove(temporary)
        file = self._disk.create(temporary)
        try:
            offset = 0
            for part in self._sealed(group, meta, payload):
                self._disk.pwrite(file, offset, part)
                offset += len(part)
            self._disk.fsync(file)
        except NoSpace:
            self._disk.remove(temporary)
            raise
        finally:
            self._disk.close(file)
        self._disk.rename(temporary, name)
        self._disk.sync_folder()
        self._prune(group)

    def load(self, name: SnapshotName) -> tuple[SnapshotMeta, bytes]:
        """What `save` was given.

        Raises:
            MissingError: There is no such snapshot.
            DamagedError: It is not what was written.
            UpgradeNeeded: A newer program wrote it.
        """
        file = self._disk.open(name.file())
        try:
            return self._opened(name, lambda offset, size_bytes: self._disk.read(file, offset, size_bytes))
        finally:
            self._disk.close(file)

    def newest(self, group: int, *, covering: int) -> tuple[SnapshotMeta, bytes] | None:
        """The newest snapshot that can be read, or None if the group never had one.

        Args:
            group: Whose.
            covering: The log begins behind this index: an older snapshot would leave a gap.

        Raises:
            DamagedError: Only snapshots that are damaged or too old are left.
        """
        damage: DamagedError | None = None
        for name in self.names(group):
            if name.index < covering:
                break
            try:
                return self.load(name)
            except DamagedError as error:
                damage = error
        if damage is not None:
            raise damage
        if covering:
            raise DamagedError(
                f"no snapshot of group {group} reaches the log",
                why=f"the log begins behind entry {covering}",
                hint="start with an empty log to fetch everything from the other nodes",
                code="damaged.snapshot",
            )
        return None

    def _prune(self, group: int) -> None:
        for name in self.names(group)[KEPT:]:
            self._disk.remove(name.file())

    def _sealed(self, group: int, meta: SnapshotMeta, payload: bytes) -> Iterator[bytes]:
        salt = self._random_bytes(16)
        configuration = RAFT.encode(meta.configuration)
        header = _HEADER.pack(
            _MAGIC, _FORMAT, 0, group, meta.index, meta.term, len(payload), len(configuration) + _TAG_BYTES, salt
        )
        cipher = self._cipher(salt)
        yield header + _CRC.pack(zlib.crc32(header))
        yield cipher.encrypt(_nonce(0), configuration, _bound(header, 0))
        for number, start in enumerate(range(0, len(payload), PIECE_BYTES), 1):
            yield cipher.encrypt(_nonce(number), payload[start : start + PIECE_BYTES], _bound(header, number))

    def _opened(self, name: SnapshotName, read: Callable[[int, int], bytes]) -> tuple[SnapshotMeta, bytes]:
        page = read(0, _HEADER.size + _CRC.size)
        header = page[: _HEADER.size]
        if len(page) != _HEADER.size + _CRC.size or page[_HEADER.size :] != _CRC.pack(zlib.crc32(header)):
            raise _damaged(name, "its header is altered")
        magic, version, _, group, index, term, length, configuration_bytes, salt = _HEADER.unpack(header)
        if version > _FORMAT:
            raise UpgradeNeeded(f"{name.file()} was written by a newer program", hint="upgrade this node")
        if magic != _MAGIC or SnapshotName(group, index, term) != name or length > PAYLOAD_BYTES_MAX:
            raise _damaged(name, "it holds something else")
        cipher = self._cipher(salt)
        offset = len(page)
        try:
            sealed = read(offset, configuration_bytes)
            configuration = RAFT.decode(cipher.decrypt(_nonce(0), sealed, _bound(header, 0)), Configuration)
            offset += configuration_bytes
            pieces: list[bytes] = []
            for number, start in enumerate(range(0, length, PIECE_BYTES), 1):
                sealed = read(offset, min(PIECE_BYTES, length - start) + _TAG_BYTES)
                pieces.append(cipher.decrypt(_nonce(number), sealed, _bound(header, number)))
                offset += len(sealed)
        except (InvalidTag, ProtocolError, ValueError) as error:
            raise _damaged(name, f"byte {offset} and on does not open") from error
        return SnapshotMeta(index, term, configuration), b"".join(pieces)

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(hashlib.blake2b(salt, key=self._key, digest_size=32, person=b"freecloud-snap-1").digest())


def _parsed(text: str) -> SnapshotName | None:
    """The name behind a file's name; None for anything else that lies there."""
    parts = text.removesuffix(SUFFIX).split("-")
    if not text.endswith(SUFFIX) or len(parts) != 3:
        return None
    try:
        return SnapshotName(*(int(part, 16) for part in parts))
    except ValueError:
        return None


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _bound(header: bytes, number: int) -> bytes:
    """The header knows the payload's length, so it also says which piece is the last."""
    return header + number.to_bytes(8, "big")


def _damaged(name: SnapshotName, why: str) -> DamagedError:
    return DamagedError(f"the snapshot {name.file()} is damaged", why=why, code="damaged.snapshot")
