"""What a command prints: results on stdout, all else on stderr; tables and colours for people, JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.errors import EXIT_STATUS, FreecloudError

COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
STATE_COLOURS = {
    "alive": "green",
    "healthy": "green",
    "stable": "green",
    "active": "green",
    "suspect": "yellow",
    "rolling": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "away": "yellow",
    "down": "red",
    "failed": "red",
    "unhealthy": "red",
    "removed": "red",
}


def result(document: Any) -> None:
    """Print one document for a program; control characters are escaped, for it may be a terminal that reads it."""
    text = json.dumps(document, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False)
    if not text.isprintable():
        text = "".join(char if char == "\n" or _is_harmless(char) else _in_json(char) for char in text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def line(text: str, *, mark: str = "", colour: str = "dim") -> None:
    """Print one line of result, perhaps with something before it in a colour."""
    before = paint(clean(mark), colour) + " " if mark else ""
    sys.stdout.write(before + clean(text) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Tell the person something that is not the result."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def fail(error: FreecloudError) -> int:
    """Say what failed, why, and what to do; returns the exit status of its kind."""
    text = f"freecloud: {error.what}"
    if error.why:
        text += f": {error.why}"
    if error.hint:
        text += f" — {error.hint}"
    note(text)
    return EXIT_STATUS[error.kind]


def clean(text: str) -> str:
    """The text with control characters made visible, so that no name or log line commands a terminal (attack 47)."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" or _is_harmless(char) else _visible(char) for char in text)


def _is_harmless(char: str) -> bool:
    return not unicodedata.category(char).startswith("C")


def _in_json(char: str) -> str:
    return json.dumps(char)[1:-1]


def _visible(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = "") -> None:
    """Print rows under headings; on a terminal the widest column gives way, into a pipe nothing is cut."""
    if not rows:
        if empty:
            note(empty)
        return
    cleaned = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cleaned)) for i, name in enumerate(columns)]
    if sys.stdout.isatty():
        _fit(widths, [len(name) for name in columns], shutil.get_terminal_size().columns)
    heading = _row([name.upper() for name in columns], widths)
    sys.stdout.write(paint(heading, "dim") + "\n")
    for row in cleaned:
        sys.stdout.write(_row(row, widths, colour=True) + "\n")
    sys.stdout.flush()


def _fit(widths: list[int], least: list[int], room: int) -> None:
    while sum(widths) + 2 * (len(widths) - 1) > room:
        widest = max(range(len(widths)), key=lambda i: widths[i])
        if widths[widest] <= max(least[widest], 6):
            return
        widths[widest] -= 1


def _row(cells: Sequence[str], widths: Sequence[int], *, colour: bool = False) -> str:
    parts = []
    for cell, width in zip(cells, widths, strict=True):
        shown = cell if len(cell) <= width else cell[: max(width - 1, 1)] + "…"
        padded = shown.ljust(width)
        name = STATE_COLOURS.get(cell) if colour else None
        parts.append(paint(padded, name) if name else padded)
    return "  ".join(parts).rstrip()


def paint(text: str, colour: str) -> str:
    """The text in a colour, on a terminal that wants any."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def fields(pairs: Mapping[str, str]) -> None:
    """Print `name  value` lines."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        line(f"{name.ljust(width)}  {value}")


def age(seconds: float | None) -> str:
    """A duration for people: 0.4s, 12s, 3m, 2h, 5d; "-" for none."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


class Progress:
    """One line that is rewritten on a terminal; into a pipe, one line a change. Always on stderr."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""

    def show(self, text: str) -> None:
        text = clean(text)
        if text == self._last:
            return
        self._last = text
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\x1b[K" + text[:width])
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._live and self._last:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
