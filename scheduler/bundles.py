"""Sources by content address: what is stored under a name is what hashes to it, checked on every read.

A bundle is one file, named by the BLAKE3 of the archive and sealed under the node's own key (rule T7): 64 KiB pieces,
each AES-GCM with its number and whether it is the last in the AAD, so that none can be changed, moved or cut off.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import trio
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consensus.disk import disk_failure
from mesh.errors import DamagedError, ExhaustedError, MissingError, UsageError
from scheduler.archive import extract

BUNDLE_BYTES_MAX = 256 * 1024 * 1024
PIECE_BYTES = 64 * 1024
NAME_HEX = 64
SHORT_HEX = 16
SALT_BYTES = 16
KEPT_S_MIN = 600.0
TAG_BYTES = 16
SUFFIX = ".bundle"


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle that is on this disk, durably."""

    bundle: str
    size_bytes: int


class BundleStore:
    """The bundles of this node.

    Args:
        folder: For bundles and nothing else.
        key: 32 bytes, the node's key for them at rest.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key
        self._names: set[str] = set()
        self._since: dict[str, float] = {}  # when each came, or was found at the start

    async def open_store(self) -> None:
        """Look at what is there, and throw away what an interrupted write left."""

        def look() -> set[str]:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for path in self._folder.glob("*.part"):
                path.unlink(missing_ok=True)
            return {path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}")}

        self._names = await trio.to_thread.run_sync(look)
        self._since = dict.fromkeys(self._names, trio.current_time())

    def has(self, bundle: str) -> bool:
        return bundle in self._names

    def size_of(self, bundle: str) -> int:
        """Bytes of the archive, as near as its sealed file tells: a few per 64 KiB more."""
        return self._path(bundle).stat().st_size

    def list(self) -> tuple[str, ...]:
        """The names of all bundles here."""
        return tuple(sorted(self._names))

    async def put(self, content: AsyncIterable[bytes], expected: str | None = None) -> StoredBundle:
        """Store a stream under the hash of its bytes; durable when this returns.

        Args:
            content: The archive.
            expected: The name that it has to have, when another node says so.

        Raises:
            ExhaustedError: More than 256 MiB, or the disk is full: nothing of it is left here then.
            DiskError: The disk failed.
            DamagedError: The bytes are not what their name says.
        """
        path = self._folder / f"{secrets.token_hex(8)}.part"
        try:
            stored = await self._write(path, content, expected)
        except OSError as error:
            raise disk_failure(error, "keep a source in", str(self._folder)) from error
        finally:
            path.unlink(missing_ok=True)
        self._names.add(stored.bundle)
        self._since[stored.bundle] = trio.current_time()
        return stored

    async def _write(self, path: Path, content: AsyncIterable[bytes], expected: str | None) -> StoredBundle:
        """Seal the stream into the file, and give it its name once all of it is there."""
        file = await trio.to_thread.run_sync(lambda: path.open("xb"))
        with file:
            sealer = _Sealer(self._key, file)
            digest, size = blake3(), 0
            async for piece in content:
                size += len(piece)
                if size > BUNDLE_BYTES_MAX:
                    limit = f"the source is larger than {BUNDLE_BYTES_MAX >> 20} MiB"
                    raise ExhaustedError(limit, code="limit.bundle")
                digest.update(piece)
                await trio.to_thread.run_sync(sealer.write, bytes(piece))
            name = digest.hexdigest()
            if expected is not None and name != expected:
                raise DamagedError("the source that came is not the one that was asked for", why=name[:SHORT_HEX])
            if size == 0:
                raise UsageError("the source is empty")
            await trio.to_thread.run_sync(lambda: sealer.finish(self._folder / (name + SUFFIX), path))
        return StoredBundle(name, size)

    async def read(self, bundle: str) -> AsyncGenerator[bytes, None]:
        """The archive's bytes, piece by piece, each checked.

        Raises:
            MissingError: It is not here.
            DamagedError: The file was changed; it is not served and not offered any more.
        """
        path = self._path(bundle)
        file = await trio.to_thread.run_sync(lambda: path.open("rb"))
        with file:
            opener = _Opener(self._key, file)
            try:
                while piece := await trio.to_thread.run_sync(opener.next):
                    yield piece
            except DamagedError:
                self._names.discard(bundle)
                raise

    async def unpack(self, bundle: str, folder: Path) -> int:
        """Extract a bundle into a new folder; nothing is left behind on failure. Returns the number of files."""
        path = self._path(bundle)

        def work() -> int:
            with path.open("rb") as sealed, tempfile.TemporaryFile(dir=self._folder) as plain:
                opener = _Opener(self._key, sealed)
                digest = blake3()
                while piece := opener.next():
                    digest.update(piece)
                    plain.write(piece)
                if digest.hexdigest() != bundle:
                    raise DamagedError(f"the source {bundle[:SHORT_HEX]} is damaged on this disk")
                plain.seek(0)
                return extract(plain, folder)

        try:
            return await trio.to_thread.run_sync(work)
        except DamagedError:
            self._names.discard(bundle)
            raise

    async def keep_only(self, bundles: Iterable[str]) -> int:
        """Remove the bundles that no release names (any more); returns how many.

        One that came within the last ten minutes stays: its release may be on its way. Those that were here at the
        start stay as long, by this start's own clock: a ledger that is still being read names none of them.
        """
        old = trio.current_time() - KEPT_S_MIN
        needless = {name for name in self._names - set(bundles) if self._since[name] < old}
        if not needless:
            return 0
        self._names -= needless

        def remove() -> None:
            for name in needless:
                (self._folder / (name + SUFFIX)).unlink(missing_ok=True)

        await trio.to_thread.run_sync(remove)
        return len(needless)

    def _path(self, bundle: str) -> Path:
        if bundle not in self._names:
            raise MissingError(f"the source {bundle[:SHORT_HEX]} is not on this node")
        return self._folder / (bundle + SUFFIX)


class _Sealer:
    def __init__(self, key: bytes, file: IO[bytes]) -> None:
        self._file = file
        salt = secrets.token_bytes(SALT_BYTES)
        file.write(salt)
        self._cipher = AESGCM(_file_key(key, salt))
        self._rest = bytearray()
        self._number = 0

    def write(self, piece: bytes) -> None:
        self._rest += piece
        while len(self._rest) > PIECE_BYTES:
            self._seal(bytes(self._rest[:PIECE_BYTES]), last=False)
            del self._rest[:PIECE_BYTES]

    def finish(self, path: Path, temporary: Path) -> None:
        """Seal the last piece, make it durable, and give it its name (fault D10)."""
        self._seal(bytes(self._rest), last=True)
        self._file.flush()
        os.fsync(self._file.fileno())
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _seal(self, piece: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number), piece, b"last" if last else b"more"))
        self._number += 1


class _Opener:
    def __init__(self, key: bytes, file: IO[bytes]) -> None:
        self._file = file
        self._cipher = AESGCM(_file_key(key, file.read(SALT_BYTES)))
        self._number = 0
        self._ended = False

    def next(self) -> bytes:
        """The next piece, b"" after the last."""
        if self._ended:
            return b""
        sealed = self._file.read(PIECE_BYTES + TAG_BYTES)
        self._ended = len(sealed) < PIECE_BYTES + TAG_BYTES or not self._file.peek(1)  # type: ignore[attr-defined]
        try:
            piece = self._cipher.decrypt(_nonce(self._number), sealed, b"last" if self._ended else b"more")
        except InvalidTag as error:
            raise DamagedError("a source on this disk is damaged") from error
        self._number += 1
        return piece


def _file_key(key: bytes, salt: bytes) -> bytes:
    """A key for each file, so that a counter is a safe nonce (attack 42)."""
    return blake3(salt, key=key).digest()


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")

