"""What a figure was taken on: commit, machine, date, priority, and how busy others kept the machine meanwhile."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRESSURE = Path("/proc/pressure/cpu")

QUIET_WINDOW_S = 2.0
BUSY = 0.10
"""The share of time in which something was ready to run and had no processor, with nothing of ours running yet.
Above it, a figure is an upper bound and no more."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, the code and the day."""

    commit: str
    cpu: str
    cores: int
    memory_mib: int
    kernel: str
    python: str
    date: str

    def text(self) -> str:
        return (
            f"commit {self.commit}, {self.cores} × {self.cpu}, {self.memory_mib / 1024:.0f} GiB, "
            f"Linux {self.kernel}, Python {self.python}, {self.date}"
        )


def this_machine() -> Machine:
    """Look at the machine and the checkout."""
    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return Machine(
        commit=_commit(),
        cpu=processor,
        cores=os.cpu_count() or 1,
        memory_mib=int(memory) // 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def stalled_us(text: str) -> int:
    """The running total of /proc/pressure/cpu: microseconds in which some task waited for a processor.

    Raises:
        ValueError: It is not such a file.
    """
    for line in text.splitlines():
        if line.startswith("some "):
            for word in line.split():
                if word.startswith("total="):
                    return int(word.removeprefix("total="))
    raise ValueError("no total in the pressure file")


class Pressure:
    """The share of time since `start` in which some task waited for a processor; None where the kernel won't say."""

    def __init__(self, file: Path = PRESSURE) -> None:
        self._file = file
        self.start()

    def start(self) -> None:
        """Begin a new stretch."""
        self._began = time.monotonic()
        self._total = self._read()

    def share(self) -> float | None:
        """What it was over the stretch so far."""
        total, elapsed_s = self._read(), time.monotonic() - self._began
        if total is None or self._total is None or elapsed_s <= 0:
            return None
        return min(1.0, (total - self._total) / 1e6 / elapsed_s)

    def _read(self) -> int | None:
        try:
            return stalled_us(self._file.read_text())
        except (OSError, ValueError):
            return None


def others_pressure() -> float | None:
    """The pressure of a moment in which nothing of ours runs: what others do to this machine."""
    pressure = Pressure()
    time.sleep(QUIET_WINDOW_S)
    return pressure.share()


def become_realtime() -> bool:
    """Ask for the lowest real-time priority (`chrt -r 1`) for this process and all it will start, on either side.

    On a busy machine each wake-up of an ordinary task waits for a tick of milliseconds; this is what spares both
    sides the same.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return False
    return True


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
