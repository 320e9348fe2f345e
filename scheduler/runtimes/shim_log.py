# ruff: noqa: PTH105
# `pathlib` would double what a shim weighs.
"""An app's output on disk, bounded in size and in speed (attack 39). The reading half is `logs.py`.

Imported by the shim: only `os` and `time`.
"""

from __future__ import annotations

import os
import time


class RotatedLog:
    """`<ms> <stream> <bytes>` a line, in at most `files` files of `file_bytes_max` each.

    `stream` is `o`, `e`, or `s` for the shim's own notes; the upper case says that the line goes on in the next
    record, because it was longer than `line_bytes_max`. Control characters stay as they are: whoever shows a line
    escapes them. What cannot be written (disk full) is dropped and counted: logs never stop an app.
    """

    def __init__(self, path: str, *, file_bytes_max: int, files: int, line_bytes_max: int) -> None:
        self.path = path
        self.file_bytes_max = file_bytes_max
        self.files = files
        self.line_bytes_max = line_bytes_max
        self.dropped_bytes = 0
        self.partial = {"o": b"", "e": b""}
        self._open()

    def note(self, text: str) -> None:
        """A line of the shim's own."""
        self._write(b"%d s %s\n" % (time.time() * 1000, text.encode(errors="replace")))

    def feed(self, stream: str, chunk: bytes) -> None:
        """Take what the app wrote; whole lines are written, the rest waits for its end."""
        *lines, rest = (self.partial[stream] + chunk).split(b"\n")
        stamp = b"%d " % (time.time() * 1000)
        records = [self._record(stamp, stream, line) for line in lines]
        limit = self.line_bytes_max
        while len(rest) > limit:
            records.append(stamp + stream.upper().encode() + b" " + rest[:limit] + b"\n")
            rest = rest[limit:]
        self.partial[stream] = rest
        if records:
            self._write(b"".join(records))

    def finish(self) -> None:
        """The app has ended: write the unfinished lines, and tell what was dropped."""
        for stream, rest in self.partial.items():
            if rest:
                self._write(self._record(b"%d " % (time.time() * 1000), stream, rest))
        if self.dropped_bytes:
            self.note(f"{self.dropped_bytes} bytes of output could not be written")

    def _record(self, stamp: bytes, stream: str, line: bytes) -> bytes:
        limit, pieces = self.line_bytes_max, []
        while len(line) > limit:
            pieces.append(stamp + stream.upper().encode() + b" " + line[:limit] + b"\n")
            line = line[limit:]
        pieces.append(stamp + stream.encode() + b" " + line + b"\n")
        return b"".join(pieces)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
        except OSError:
            self._fd, self._size = -1, 0

    def _write(self, records: bytes) -> None:
        if self._size and self._size + len(records) > self.file_bytes_max:
            self._rotate()
        try:
            written = os.write(self._fd, records)
        except OSError:
            written = 0
        self._size += written
        self.dropped_bytes += len(records) - written

    def _rotate(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        for number in range(self.files - 1, 0, -1):
            newer = self.path if number == 1 else f"{self.path}.{number - 1}"
            try:
                os.replace(newer, f"{self.path}.{number}")
            except OSError:
                continue  # the newer one is missing, or the disk refuses: the next open appends to what there is
        self._open()


class Flow:
    """A bucket of bytes that fills with time: an app that floods its log waits at its own pipe."""

    def __init__(self, bytes_per_s: int, burst_bytes: int, *, refill_bytes: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_bytes = burst_bytes
        self._refill_bytes = refill_bytes
        self._level = float(burst_bytes)
        self._at = time.monotonic()

    def take(self, count: int) -> None:
        self._fill()
        self._level -= count

    def wait_s(self) -> float:
        """Seconds until reading may go on; 0 when it may now."""
        self._fill()
        return 0.0 if self._level > 0 else (self._refill_bytes - self._level) / self._bytes_per_s

    def _fill(self) -> None:
        now = time.monotonic()
        self._level = min(self._burst_bytes, self._level + (now - self._at) * self._bytes_per_s)
        self._at = now
