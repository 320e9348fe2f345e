"""Reading what apps wrote, while they run and after (users' pain 12): the shim writes, `shim_log.py` says how.

A log belongs to a replica, not to a run: restarts append. It lives outside the replica's own folder, which the app
can write to, and stays for a day after the replica is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOG_FILES = 3
LOG_FILE_BYTES_MAX = 10 * 1024 * 1024
LOG_LINE_BYTES_MAX = 16 * 1024
LOG_BYTES_PER_S = 1024 * 1024
LOG_BURST_BYTES = 8 * 1024 * 1024
"""Beyond these an app waits at its own pipe: a flood costs the flooder, not its neighbours (attack 39)."""

KEPT_AFTER_END_S = 24 * 3600
ENDED_LOGS_MAX = 20
"""Logs of ended replicas kept for one app: the newest of a day."""

_BLOCK_BYTES = 64 * 1024

STREAMS = {"o": "stdout", "e": "stderr", "s": "freecloud"}


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line, or a piece of a very long one."""

    at_ms: int
    stream: str  # "stdout" | "stderr" | "freecloud": the shim's own word
    text: str  # as written, undecodable bytes replaced; control characters still in it
    continued: bool  # the next record of this stream is the rest of this line


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where a reader stands. The file is known by its inode, because rotation changes its name."""

    inode: int
    offset: int


def log_path(folder: Path, app: str, replica_id: str) -> Path:
    """Where this replica's log is."""
    return folder / app / f"{replica_id}.log"


def parse_record(line: bytes) -> LogRecord | None:
    """The record in this line (without its newline); None when a crash or a full disk left half of one."""
    stamp, _, rest = line.partition(b" ")
    stream = rest[:1].decode(errors="replace")
    if not stamp.isdigit() or stream.lower() not in STREAMS or rest[1:2] != b" ":
        return None
    text = rest[2:].decode(errors="replace")
    return LogRecord(int(stamp), STREAMS[stream.lower()], text, continued=stream.isupper())


def escape_controls(text: str) -> str:
    """The text as a terminal may show it: no escape sequence, carriage return or bidirectional trick (attack 47)."""
    return "".join(
        character if character.isprintable() or character == "\t" else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def read_tail(path: Path, lines_max: int, bytes_max: int) -> tuple[list[LogRecord], LogPosition]:
    """The last records over all of the log's files, oldest first, and where to go on.

    Args:
        path: The newest file; the older ones stand beside it as `.1`, `.2`.
        lines_max: How many records at most.
        bytes_max: How much is read at most, from the end.
    """
    records: list[LogRecord] = []
    position = LogPosition(0, 0)
    for number in range(LOG_FILES):
        if len(records) >= lines_max or bytes_max <= 0:
            break
        name = path if number == 0 else path.with_name(f"{path.name}.{number}")
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            break
        with os.fdopen(fd, "rb") as file:
            size = os.fstat(fd).st_size
            start = max(0, size - bytes_max)
            whole = os.pread(fd, size - start, start)
            file.seek(0)
            end = start + whole.rfind(b"\n") + 1
            if number == 0:
                position = LogPosition(os.fstat(fd).st_ino, end)
            lines = whole[: end - start].split(b"\n")[:-1]
            if start:
                lines = lines[1:]  # it begins in the middle of a line
            bytes_max -= len(whole)
        wanted = lines[-(lines_max - len(records)) :]
        records = [record for record in map(parse_record, wanted) if record is not None] + records
    return records, position


def read_on(path: Path, position: LogPosition, bytes_max: int) -> tuple[list[LogRecord], LogPosition]:
    """The records after this position, across a rotation; at most about `bytes_max` of them."""
    found = _files_by_inode(path)
    at = next((at for at, (inode, _) in enumerate(found) if inode == position.inode), None)
    if at is None:
        # Rotated away altogether while nobody read, or nothing was read yet: go on with the oldest there is.
        at, position = (len(found) - 1, LogPosition(found[-1][0], 0)) if found else (None, position)
    if at is None:
        return [], position
    inode, name = found[at]
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return [], position
    with os.fdopen(fd, "rb"):
        chunk = os.pread(fd, max(bytes_max, LOG_LINE_BYTES_MAX + 64), position.offset)
    end = chunk.rfind(b"\n") + 1
    records = [record for record in map(parse_record, chunk[:end].split(b"\n")[:-1]) if record is not None]
    if end == 0 and at > 0:
        return [], LogPosition(found[at - 1][0], 0)  # this file is finished: the next one
    return records, LogPosition(inode, position.offset + end)


def logged_replicas(folder: Path, app: str) -> Iterator[tuple[str, float]]:
    """Each replica of this app that has a log here, and when it was last written to (seconds of wall time)."""
    try:
        entries = sorted((folder / app).iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.suffix == ".log":
            yield entry.name.removesuffix(".log"), entry.lstat().st_mtime


def prune_logs(folder: Path, living: frozenset[str], now_s: float) -> int:
    """Remove logs of replicas that are gone for a day, and all but the newest of each app; returns how many."""
    removed = 0
    try:
        apps = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return 0
    for app in apps:
        ended = [(at, name) for name, at in logged_replicas(folder, app) if name not in living]
        ended.sort(reverse=True)
        for rank, (at, name) in enumerate(ended):
            if rank >= ENDED_LOGS_MAX or now_s - at > KEPT_AFTER_END_S:
                for number in range(LOG_FILES):
                    suffix = f".{number}" if number else ""
                    (folder / app / f"{name}.log{suffix}").unlink(missing_ok=True)
                removed += 1
    return removed


def wall_s() -> float:
    """The wall clock, for the age of logs alone."""
    return time.time()


def _files_by_inode(path: Path) -> list[tuple[int, Path]]:
    found = []
    for number in range(LOG_FILES):
        name = path if number == 0 else path.with_name(f"{path.name}.{number}")
        try:
            found.append((os.lstat(name).st_ino, name))
        except OSError:
            break
    return found
