"""Unpacking what a stranger may have packed: regular files and folders only, bounded, never outside the folder.

The members are read one after another and every path is opened relative to a descriptor of the folder above it, with
O_NOFOLLOW, so that nothing the archive says (links, `..`, absolute paths) and nothing that changes meanwhile leads out.
CPython's own extraction filters were not enough (CVE-2025-4517). Synchronous: the daemon runs it in a thread.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mesh.errors import ExhaustedError, FailedError, UsageError

ENTRIES_MAX = 20_000
BYTES_MAX = 1024 * 1024 * 1024
RATIO_MAX = 100
"""Unpacked over packed; below a MiB unpacked nobody is harmed by any ratio."""

RATIO_FREE_BYTES = 1024 * 1024
NAME_BYTES_MAX = 255
DEPTH_MAX = 32
PIECE_BYTES = 256 * 1024

HEADER_BYTES_MAX = 64 * 1024
"""Of a header that tarfile reads whole into memory: its size is whatever the archive claims."""

DIRECTORY_BYTES_MAX = 4 * 1024 * 1024
"""Of a zip's directory, which zipfile reads whole: 20,000 entries with paths of 150 bytes."""

DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    ValueError,  # of names that are no text, and numbers that are none
    RecursionError,  # of extended headers in a row
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may unpack to."""

    entries_max: int = ENTRIES_MAX
    bytes_max: int = BYTES_MAX
    ratio_max: int = RATIO_MAX


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    is_folder: bool
    executable: bool
    content: IO[bytes] | None


def extract(archive: IO[bytes], folder: Path, limits: Limits = Limits()) -> int:
    """Unpack a .tar.gz or .zip into a folder that does not exist yet; returns the number of files.

    Args:
        archive: Seekable.
        folder: Made here, 0700; its files get 0644, or 0755 where the archive's owner may execute them.

    Raises:
        UsageError: Not such an archive, damaged, or something in it that may not be.
        ExhaustedError: More than the limits.
        FailedError: This disk would not take it. The folder is gone again in each of these cases.
    """
    try:
        packed = os.fstat(archive.fileno()).st_size
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise FailedError(f"cannot make {folder}", why=os.strerror(error.errno or 0)) from error
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writer = _Writer(root, packed, limits)
        for entry in _entries(archive):
            writer.take(entry)
        return writer.files
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, DAMAGED):
            raise UsageError("the source is a damaged archive", why=str(error)[:200]) from error
        if isinstance(error, OSError):
            raise FailedError("cannot unpack the source", why=os.strerror(error.errno or 0)) from error
        raise
    finally:
        os.close(root)


class _Writer:
    def __init__(self, root: int, packed: int, limits: Limits) -> None:
        self._root = root
        self._packed = packed
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self._seen: set[tuple[str, ...]] = set()
        self.files = 0

    def take(self, entry: _Entry) -> None:
        self._entries += 1
        if self._entries > self._limits.entries_max:
            raise ExhaustedError(
                f"the archive has more than {self._limits.entries_max} entries", code="limit.archive-entries"
            )
        parts = _parts(entry.name)
        if entry.is_folder:
            if parts:
                os.close(self._folder(parts))
            return
        if not parts or parts in self._seen:
            raise UsageError(f"the archive has {entry.name!r} twice, or as a file without a name")
        self._seen.add(parts)
        self._write(parts, entry)
        self.files += 1

    def _folder(self, parts: tuple[str, ...]) -> int:
        """A descriptor of this folder, made where it is missing; the caller closes it."""
        current = os.dup(self._root)
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=current)
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            except OSError as error:
                raise UsageError(f"{'/'.join(parts)!r} is a file and a folder in this archive") from error
            finally:
                os.close(current)
            # mkdir's mode is cut by the umask, and an app's own user must be able to read its source.
            os.fchmod(below, 0o755)
            current = below
        return current

    def _write(self, parts: tuple[str, ...], entry: _Entry) -> None:
        assert entry.content is not None
        above = self._folder(parts[:-1])
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            target = os.open(parts[-1], flags, 0o600, dir_fd=above)
        except OSError as error:
            raise UsageError(f"cannot unpack {entry.name!r}", why=os.strerror(error.errno or 0)) from error
        finally:
            os.close(above)
        with os.fdopen(target, "wb") as file:
            while piece := entry.content.read(PIECE_BYTES):
                self._count(len(piece))
                file.write(piece)
            os.fchmod(file.fileno(), 0o755 if entry.executable else 0o644)

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.bytes_max:
            raise ExhaustedError(
                f"the archive unpacks to more than {self._limits.bytes_max >> 20} MiB", code="limit.archive-bytes"
            )
        if self._bytes > RATIO_FREE_BYTES and self._bytes > self._packed * self._limits.ratio_max:
            raise ExhaustedError(
                f"the archive unpacks to over {self._limits.ratio_max} times its size", code="limit.archive-ratio"
            )


def _parts(name: str) -> tuple[str, ...]:
    """The path's parts; refused if it could mean anything but a path below the folder."""
    if name.startswith("/") or "\\" in name or "\0" in name:
        raise UsageError(f"the archive has the path {name!r}", why="paths are relative, with / between their parts")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or len(parts) > DEPTH_MAX or any(len(os.fsencode(part)) > NAME_BYTES_MAX for part in parts):
        raise UsageError(f"the archive has the path {name[:200]!r}", why="no .., no long names, not too deep")
    return parts


def _entries(archive: IO[bytes]) -> Iterator[_Entry]:
    start = archive.read(4)
    archive.seek(0)
    if start[:2] == b"\x1f\x8b":
        yield from _tar_entries(archive)
    elif start[:2] == b"PK":
        yield from _zip_entries(archive)
    else:
        raise UsageError("the source is neither a .tar.gz nor a .zip archive")


class _Member(tarfile.TarInfo):
    """A header that is bounded before it is read; `_proc_member` is tarfile's own hook for such."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in tarfile.REGULAR_TYPES and self.type != tarfile.DIRTYPE:
            if self.type not in _EXTENDED:
                raise UsageError(f"the archive has {self.name[:200]!r}", why="only files and folders may be in it")
            if self.size > HEADER_BYTES_MAX:
                raise UsageError("the archive has a header that is too long", why=f"{self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)


def _tar_entries(archive: IO[bytes]) -> Iterator[_Entry]:
    with tarfile.open(fileobj=archive, mode="r|gz", errorlevel=2, tarinfo=_Member) as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise UsageError(f"the archive has {member.name!r}", why="only files and folders may be in it")
            content = tar.extractfile(member) if member.isreg() else None
            yield _Entry(member.name, member.isdir(), bool(member.mode & 0o100), content)


def _zip_entries(archive: IO[bytes]) -> Iterator[_Entry]:
    _check_directory(archive)
    with zipfile.ZipFile(archive) as whole:
        for member in whole.infolist():
            mode = member.external_attr >> 16
            kind = stat.S_IFMT(mode)
            plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not member.flag_bits & 0x1
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or not plain:
                raise UsageError(
                    f"the archive has {member.filename!r}", why="only plain files and folders may be in it"
                )
            if member.is_dir():
                yield _Entry(member.filename, True, False, None)
            else:
                with whole.open(member) as content:
                    yield _Entry(member.filename, False, bool(mode & 0o100), content)


def _check_directory(archive: IO[bytes]) -> None:
    """Bound a zip's directory before zipfile makes an object of every entry that it claims."""
    end = archive.seek(0, os.SEEK_END)
    tail_bytes = min(end, 22 + 0xFFFF)
    archive.seek(end - tail_bytes)
    tail = archive.read(tail_bytes)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) < found + 22:
        raise UsageError("the source is a damaged archive", why="its directory is missing")
    if tail.find(b"PK\x06\x07") >= 0 or int.from_bytes(tail[found + 12 : found + 16], "little") > DIRECTORY_BYTES_MAX:
        raise ExhaustedError("the archive has too large a directory", code="limit.archive-entries")
    archive.seek(0)
