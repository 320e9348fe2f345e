# ruff: noqa: PTH208
# `pathlib` would double what a shim weighs.
"""How much memory an app uses, where no control group bounds it (attack 39): the shim looks, several times a second.

A limit per process would be none for a program that forks, and one on *address space* would be one that Go, Java and
JavaScript programs cannot live with. So the whole tree below the shim, whose subreaper it is, is added up. Between two
looks an app can take what the machine gives it in a quarter of a second; should that be all there is, the kernel ends
the app first (its `oom_score_adj`). Memory that is mapped nowhere (an unmapped memfd) is seen by control groups alone.

Imported by the shim: small modules only.
"""

from __future__ import annotations

import os
import time

from scheduler.runtimes.procfs import numbers_in, read_file

LOOK_EVERY_S = 0.25
LOOK_SHARE_MAX = 0.02
"""Of one core: a tree of a thousand threads is looked at more rarely."""

ROUGH = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
EXACT = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")


class MemoryWatch:
    """Says when the processes below this one use more than they may.

    Args:
        limit_bytes: What they may use together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_kib = limit_bytes // 1024
        self._due = 0.0

    def wait_s(self) -> float:
        """Seconds until the next look."""
        return max(0.0, self._due - time.monotonic())

    def is_over(self) -> bool:
        """Look, if it is time to; whether it is too much."""
        began = time.monotonic()
        if began < self._due:
            return False
        pids = descendants(os.getpid())
        # Pages that forks share count twice here, and cost little to read; only then it is worth to be exact.
        over = sum(_kib(f"/proc/{pid}/status", ROUGH) or 0 for pid in pids) > self._limit_kib
        if over:
            over = sum(map(_exact_kib, pids)) > self._limit_kib
        now = time.monotonic()
        self._due = now + max(LOOK_EVERY_S, (now - began) / LOOK_SHARE_MAX)
        return over


def descendants(pid: int) -> list[int]:
    """All processes below this one, as far as they stand still for it."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue  # it ended meanwhile
        for thread in threads:
            children = numbers_in(f"/proc/{parent}/task/{thread}/children")
            found += children
            waiting += children
    return found


def _exact_kib(pid: int) -> int:
    """Each shared page divided among those who share it; the rough figure where this process may not be looked into."""
    exact = _kib(f"/proc/{pid}/smaps_rollup", EXACT)
    return exact if exact is not None else _kib(f"/proc/{pid}/status", ROUGH) or 0


def _kib(path: str, names: tuple[bytes, ...]) -> int | None:
    """The sum of these lines; None when none is there."""
    values = [int(line.split()[1]) for line in read_file(path).splitlines() if line.startswith(names)]
    return sum(values) if values else None
