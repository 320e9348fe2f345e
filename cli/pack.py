"""Packing an app's source folder into one .tar.gz, the same bytes for the same files (release addresses hang on it).

Regular files and folders only; `.gitignore` files are respected, as is what nobody means to ship (`.git`, virtual
environments' markers, byte code). Links are refused by name: the other end would refuse them too (attack 36).
"""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mesh.errors import UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

ENTRIES_MAX = 20_000
BYTES_MAX = 1024 * 1024 * 1024
ALWAYS_IGNORED = [".git/", ".venv/", "__pycache__/", "*.pyc", "node_modules/", ".DS_Store"]


def pack(source: Path, into: IO[bytes]) -> int:
    """Write the archive of a folder; returns the number of files.

    Raises:
        UsageError: No such folder, nothing in it, a link in it, or more than an archive may hold.
    """
    if not source.is_dir():
        raise UsageError(f"there is no folder {source}", hint="`source:` is relative to the manifest")
    files = list(_files(source))
    if not files:
        raise UsageError(f"{source} has no files", hint="look at its .gitignore")
    with (
        gzip.GzipFile(fileobj=into, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        total = 0
        for path in files:
            total += _add(archive, source, path)
            if total > BYTES_MAX:
                raise UsageError(f"{source} is larger than {BYTES_MAX >> 20} MiB", hint="ignore what is not needed")
    return len(files)


def _add(archive: tarfile.TarFile, source: Path, path: Path) -> int:
    with path.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        member = tarfile.TarInfo(path.relative_to(source).as_posix())
        member.size = size
        # Only the owner's execute bit is of the app; owner, group, times and the rest are of this machine.
        member.mode = 0o755 if os.fstat(content.fileno()).st_mode & 0o100 else 0o644
        archive.addfile(member, content)
    return size


def _files(source: Path) -> Iterator[Path]:
    import pathspec

    count = 0
    rules = [(source, pathspec.GitIgnoreSpec.from_lines(ALWAYS_IGNORED))]
    pending = [(source, rules)]
    while pending:
        folder, above = pending.pop()
        here = above
        ignore_file = folder / ".gitignore"
        if ignore_file.is_file():
            lines = ignore_file.read_text(errors="replace").splitlines()
            here = [*above, (folder, pathspec.GitIgnoreSpec.from_lines(lines))]
        folders = []
        for path in sorted(folder.iterdir()):
            is_folder = path.is_dir() and not path.is_symlink()
            if _ignored(path, here, is_folder):
                continue
            if path.is_symlink() or not (is_folder or path.is_file()):
                raise UsageError(f"{path} is a link or no plain file", hint="copy what it points to, or ignore it")
            if is_folder:
                folders.append((path, here))
                continue
            count += 1
            if count > ENTRIES_MAX:
                raise UsageError(f"{source} has more than {ENTRIES_MAX} files", hint="ignore what is not needed")
            yield path
        pending.extend(reversed(folders))


def _ignored(path: Path, rules: list[tuple[Path, GitIgnoreSpec]], is_folder: bool) -> bool:
    """The deepest .gitignore that says anything about the path decides, as git has it."""
    for base, spec in reversed(rules):
        text = path.relative_to(base).as_posix() + ("/" if is_folder else "")
        verdict = spec.check_file(text).include
        if verdict is not None:
            return bool(verdict)
    return False
