"""What a command prints: results on stdout, all else on stderr; tables and colours for people, JSON for programs."""

from __future__ import annotations

import codecs
import json
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from cli.layout import GAP, columns, fitted, wrapped
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


PLAIN = {"—": "-", "–": "-", "…": "...", "’": "'", "“": '"', "”": '"', "·": "-", "→": "->", "≥": ">=", "≤": "<="}
"""What our own sentences hold beyond ASCII, for a terminal that cannot show it."""


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """For a terminal whose encoding lacks a character: its plain likeness, or its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(char) or _visible(char) for char in text), error.end


codecs.register_error("freecloud", _in_plain)


def result(document: Any) -> None:
    """Print one document for a program; control characters are escaped, for it may be a terminal that reads it."""
    # An encoding without some character must not put another in its place: JSON has escapes for that.
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, indent=2 if sys.stdout.isatty() else None, ensure_ascii=not unicode)
    if not text.isprintable():
        text = "".join(char if char == "\n" or _is_harmless(char) else _in_json(char) for char in text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def line(text: str, *, mark: str = "", colour: str = "dim") -> None:
    """Print one line of result as it is, perhaps with something before it in a colour."""
    before = paint(clean(mark), colour) + " " if mark else ""
    sys.stdout.write(before + clean(text) + "\n")
    sys.stdout.flush()


def sentence(text: str, *, mark: str = "", colour: str = "dim") -> None:
    """Print a line that a person reads: on a terminal it is broken between words, what follows stands indented."""
    mark = clean(mark)
    lines = [clean(text)]
    if sys.stdout.isatty():
        lines = wrapped(lines[0], columns(sys.stdout) - (len(mark) + 1 if mark else 0), rest="  ")
    before = paint(mark, colour) + " " if mark else ""
    after = " " * (len(mark) + 1 if mark else 0)
    sys.stdout.write(before + f"\n{after}".join(lines) + "\n")
    sys.stdout.flush()


def note(text: str, *, as_is: bool = False) -> None:
    """Tell the person something that is not the result; `as_is` what stands in columns, or is somebody else's."""
    text = clean(text)
    if sys.stderr.isatty() and not as_is:
        text = "\n".join(part for whole in text.split("\n") for part in wrapped(whole, columns(sys.stderr), rest="  "))
    sys.stderr.write(text + "\n")
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
    number = ord(char)
    if number < 256:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 65_536 else f"\\U{number:08x}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = "") -> None:
    """Print rows under headings; on a terminal they are fitted to its width, into a pipe each is one line."""
    if not rows:
        if empty:
            note(empty)
        return
    names = [name.upper() for name in headings]
    cleaned = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    room = columns(sys.stdout) if sys.stdout.isatty() else 1_000_000
    lines = fitted(names, cleaned, room)
    heading, _ = next(lines)
    sys.stdout.write(paint(GAP.join(heading).rstrip(), "dim") + "\n")
    for cells, below in lines:
        shown = [_coloured(cell) for cell in cells[:-1]] + [_coloured(cells[-1].rstrip())]
        sys.stdout.write("\n".join([GAP.join(shown).rstrip(), *below]) + "\n")
    sys.stdout.flush()


def _coloured(cell: str) -> str:
    name = STATE_COLOURS.get(cell.rstrip())
    return paint(cell, name) if name else cell


def paint(text: str, colour: str) -> str:
    """The text in a colour, on a terminal that wants any."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def fields(pairs: Mapping[str, str]) -> None:
    """Print `name  value` lines; on a terminal a long value goes on below itself."""
    size = max((len(name) for name in pairs), default=0)
    terminal = sys.stdout.isatty()
    for name, value in pairs.items():
        first = f"{name.ljust(size)}{GAP}"
        text = clean(value)
        lines = wrapped(text, columns(sys.stdout), first=first, rest=" " * len(first)) if terminal else [first + text]
        sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


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
            sys.stderr.write("\r\x1b[K" + text[: columns(sys.stderr) - 1])
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._live and self._last:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
