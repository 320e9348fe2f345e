"""The command in a terminal of a given size, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ESCAPES = re.compile(r"\x1b\[[0-9;]*[mK]")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a terminal was sent, and how the command ended."""

    status: int
    raw: str

    @property
    def lines(self) -> list[str]:
        """The lines without colours."""
        return ESCAPES.sub("", self.raw).replace("\r\n", "\n").split("\n")


def in_terminal(
    *words: str,
    columns: int = 80,
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
    prompt: str = "",
    typed: str = "",
    timeout: float = 60.0,
) -> Shown:
    """Run the command with all three of its streams on a terminal; somebody types once the prompt is there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    ruling = ("FREECLOUD_", "COLUMNS", "NO_COLOR")
    given = {key: value for key, value in os.environ.items() if not key.startswith(ruling)}
    given |= {"TERM": "xterm-256color", **(environment or {})}
    if home is not None:
        given["FREECLOUD_HOME"] = str(home)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=given,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        raw = b""
        if typed:
            raw = _all_of(ours, time.monotonic() + timeout, until=prompt.encode())
            os.write(ours, typed.encode())
        raw += _all_of(ours, time.monotonic() + timeout)
        return Shown(process.wait(timeout=timeout), raw.decode(errors="replace"))
    finally:
        process.kill()
        process.wait(timeout=timeout)
        os.close(ours)


def _all_of(terminal: int, end: float, until: bytes | None = None) -> bytes:
    """What arrives until these bytes came, or until the other side is closed (which Linux tells as EIO)."""
    received = bytearray()
    while (left := end - time.monotonic()) > 0:
        if until is not None and until in received:
            return bytes(received)
        ready, _, _ = select.select([terminal], [], [], left)
        if not ready:
            break
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            return bytes(received)
        if not piece:
            return bytes(received)
        received += piece
    raise AssertionError(f"the command did not end; it said {bytes(received)!r}")
