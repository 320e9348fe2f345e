"""A node's processes as the kernel counts them: memory from smaps_rollup, processor time from stat."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.samples import NotMeasuredError

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


class Part(StrEnum):
    """Whose process it is. An app's memory is its owner's affair, not the node's."""

    DAEMON = "daemon"
    SHIM = "shim"
    APP = "app"


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the system."""

    pid: int
    parent: int
    words: tuple[str, ...]


def processes() -> dict[int, Process]:
    """All that run now."""
    found: dict[int, Process] = {}
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = int(after_name((folder / "stat").read_text())[1])
        except OSError:
            continue  # it ended meanwhile
        found[int(folder.name)] = Process(int(folder.name), parent, tuple(filter(None, words)))
    return found


def tree(everything: dict[int, Process], daemon: int, home: Path) -> dict[int, Part]:
    """The processes of one node: the daemon, its shims (nobody's children after a restart), and what these started."""
    parts = {daemon: Part.DAEMON}
    for process in everything.values():
        if is_shim(process, home):
            parts[process.pid] = Part.SHIM
    while True:
        grown = {
            process.pid: Part.DAEMON if parts[process.parent] is Part.DAEMON else Part.APP
            for process in everything.values()
            if process.pid not in parts and process.parent in parts
        }
        if not grown:
            return parts
        parts |= grown


def is_shim(process: Process, home: Path) -> bool:
    """`python -I -S …/shim.py FOLDER`, the folder within this home."""
    words = process.words
    return any(
        word.endswith("/shim.py") and Path(folder).is_relative_to(home)
        for word, folder in itertools.pairwise(words)
    )


def after_name(stat: str) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before them may hold spaces and parentheses."""
    return stat.rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """Processor time of a process and of those of its children that it has reaped.

    Raises:
        NotMeasuredError: It is gone.
    """
    try:
        fields = after_name((PROC / str(pid) / "stat").read_text())
    except OSError as error:
        raise NotMeasuredError(f"process {pid} ended while it was watched") from error
    return sum(map(int, fields[11:15])) / TICKS_A_SECOND


def pss_mib(pid: int) -> float:
    """The memory of a process, what it shares with others divided among them.

    Raises:
        NotMeasuredError: It is gone, or not ours to look at.
    """
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError as error:
        raise NotMeasuredError(f"the memory of process {pid} cannot be read: {error.strerror}") from error
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise NotMeasuredError(f"the kernel tells no PSS of process {pid}")
