"""How text is fitted to a terminal: pure functions of text and width. Nothing is ever cut: what does not fit beside
the rest goes on a line of its own, under its name."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TextIO

DEFAULT_COLUMNS = 80
TEXT_COLUMNS_MIN = 16
"""Less than this makes no column of sentences."""

GAP = "  "


def columns(stream: TextIO) -> int:
    """How wide the terminal behind this stream is; COLUMNS has the last word, as everywhere."""
    named = os.environ.get("COLUMNS", "")
    if named.isascii() and named.isdigit() and 0 < int(named) < 10_000:
        return int(named)
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    except (OSError, ValueError, AttributeError):
        return DEFAULT_COLUMNS


def width(text: str) -> int:
    """Columns that the text takes: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def padded(text: str, size: int) -> str:
    return text + " " * max(0, size - width(text))


def wrapped(text: str, room: int, *, first: str = "", rest: str = "") -> list[str]:
    """The text in lines of at most `room` columns, broken between words; a word that is longer keeps its own line."""
    lines, line, empty = [], first, True
    for word in text.split(" "):
        candidate = line + word if empty else f"{line} {word}"
        if not empty and width(candidate) > room:
            lines.append(line.rstrip())
            candidate = rest + word
        line, empty = candidate, False
    return [*lines, line.rstrip()]


def fitted(headings: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> Iterator[tuple[list[str], list[str]]]:
    """The table in lines: (its cells, each as wide as its column; or what follows below them, whole lines).

    The heading comes first. If all columns fit they stand side by side. Else the last one is wrapped if it is text and
    has room. Else the last columns go below their row, each with its name before it.
    """
    widths = [max(width(name), *(width(row[i]) for row in rows)) for i, name in enumerate(headings)]
    if _total(widths) > room:
        left = room - _total(widths[:-1]) - len(GAP)
        words = max(width(word) for row in rows for word in row[-1].split(" "))
        if max(TEXT_COLUMNS_MIN, words, width(headings[-1])) <= left:
            widths[-1] = left
        else:
            yield from _stacked(headings, rows, widths, room)
            return
    yield [padded(name, size) for name, size in zip(headings, widths, strict=True)], []
    indent = " " * (_total(widths[:-1]) + len(GAP)) if len(widths) > 1 else ""
    for row in rows:
        lines = wrapped(row[-1], widths[-1])
        cells = [*row[:-1], lines[0]]
        below = [indent + line for line in lines[1:]]
        yield [padded(cell, size) for cell, size in zip(cells, widths, strict=True)], below


def _stacked(
    headings: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], room: int
) -> Iterator[tuple[list[str], list[str]]]:
    beside = 1
    while beside < len(widths) - 1 and _total(widths[: beside + 1]) <= room:
        beside += 1
    yield [padded(name, size) for name, size in zip(headings[:beside], widths, strict=False)], []
    for row in rows:
        below = [
            line
            for name, cell in zip(headings[beside:], row[beside:], strict=True)
            if cell and cell != "-"
            for line in wrapped(cell, room, first=f"{GAP}{name.lower()}: ", rest=GAP * 2)
        ]
        yield [padded(cell, size) for cell, size in zip(row[:beside], widths, strict=False)], below


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * max(0, len(widths) - 1)
