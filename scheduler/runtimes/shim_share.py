# ruff: noqa: PTH123
# `pathlib` would double what a shim weighs.
"""An app that has used more than its share of the processor gives way at once (attack 39: neighbours' latency).

Shares alone divide time fairly, but whoever wakes up to answer a request waits until the kernel's next tick for a
processor that a busy neighbour holds: milliseconds, several times a request. So an app has a small account of processor
time, filled at the pace of its share. One that has overdrawn it runs as *idle* (`cpu.idle` of its control group): with
all that nobody else wants, and behind anybody who wakes up; until the account has recovered.

Imported by the shim: small modules only. Source: the kernel's admin-guide, `cgroup-v2.rst` on `cpu.idle` (Linux 5.15).
"""

from __future__ import annotations

import time

from scheduler.runtimes.procfs import read_file

LOOK_EVERY_S = 1.0

ACCOUNT_S = 2.0
"""Processor time saved at most, and owed at most: a start, or a burst of requests, is no flood."""


class FairShare:
    """Keeps one app's account.

    Args:
        groups: Its control groups.
        cores: Its share.
    """

    def __init__(self, groups: list[str], cores: float) -> None:
        self._cores = cores
        self._group = next((group for group in groups if read_file(f"{group}/cpu.idle")), "")
        self._groups = groups
        self._level = ACCOUNT_S
        self._idle = False
        self._weights: dict[str, bytes] = {}
        self._at = time.monotonic()
        self._used_s = self._usage() or 0.0
        self.possible = bool(self._group) and self._usage() is not None

    def wait_s(self) -> float:
        """Seconds until the next look."""
        return max(0.0, self._at + LOOK_EVERY_S - time.monotonic())

    def check(self) -> None:
        """Look, if it is time to."""
        now = time.monotonic()
        used_s = self._usage()
        if now < self._at + LOOK_EVERY_S or used_s is None:
            return
        earned = self._cores * (now - self._at)
        self._level = max(-ACCOUNT_S, min(ACCOUNT_S, self._level + earned - (used_s - self._used_s)))
        self._at, self._used_s = now, used_s
        if self._idle != (self._level < (ACCOUNT_S / 2 if self._idle else 0.0)):
            self._set_idle(not self._idle)

    def _set_idle(self, idle: bool) -> None:
        """An idle group forgets its weight: back from there it is told anew."""
        try:
            if idle:
                self._weights = {name: read_file(f"{self._group}/{name}") for name in ("cpu.shares", "cpu.weight")}
            _write(f"{self._group}/cpu.idle", b"1" if idle else b"0")
            for name, weight in self._weights.items():
                if weight and not idle:
                    _write(f"{self._group}/{name}", weight)
        except OSError:
            return  # the group is being removed
        self._idle = idle

    def _usage(self) -> float | None:
        """Seconds of processor time that the app has had."""
        for group in self._groups:
            nanoseconds = read_file(f"{group}/cpuacct.usage")
            if nanoseconds:
                return int(nanoseconds) / 1e9
            words = read_file(f"{group}/cpu.stat").split()
            if b"usage_usec" in words[:-1]:
                return int(words[words.index(b"usage_usec") + 1]) / 1e6
        return None


def _write(path: str, content: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(content)
