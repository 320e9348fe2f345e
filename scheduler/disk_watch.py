"""How much disk a replica uses, against what it may (attack 39: a disk flood).

File systems have quotas, but not for whoever comes along; so the folders are measured. A replica over its limit is
ended and its folders are emptied before the next start: they were never meant to keep anything. Between two looks it
can write as much as the disk takes in a second; a single file is bounded by its limit at once (RLIMIT_FSIZE).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_EVERY_S = 1.0

NOISE_BYTES = 1024 * 1024
"""While the file system's free space has changed by less, nobody can have written more: not worth a walk."""

WALK_AT_LEAST_EVERY_S = 60.0

WALK_SHARE_MAX = 0.02
"""Of one core, for all of these walks of one replica; a tree of a million files is walked rarely."""

ENTRIES_MAX = 200_000
"""Files and folders of one replica; more is a flood of another kind."""


@dataclass(slots=True)
class DiskWatch:
    """Measures some folders, as rarely as it can. `look` blocks: it belongs into a worker thread.

    Args:
        folders: What counts.
        limit_bytes: What they may hold together.
    """

    folders: tuple[Path, ...]
    limit_bytes: int
    _free_bytes: int = -1
    _walked_at: float = -1e9
    _walk_s: float = 0.0

    def look(self) -> str | None:
        """None while it is well, else what is wrong, for people."""
        now = time.monotonic()
        status = os.statvfs(self.folders[0])
        free_bytes = status.f_bavail * status.f_frsize
        quiet = abs(free_bytes - self._free_bytes) < NOISE_BYTES and now - self._walked_at < WALK_AT_LEAST_EVERY_S
        if quiet or now - self._walked_at < self._walk_s / WALK_SHARE_MAX:
            return None
        used_bytes, entries = measure(self.folders)
        self._free_bytes, self._walked_at, self._walk_s = free_bytes, now, time.monotonic() - now
        if entries > ENTRIES_MAX:
            return f"more than {ENTRIES_MAX} files"
        if used_bytes > self.limit_bytes:
            return f"{used_bytes >> 20} MiB of disk used, {self.limit_bytes >> 20} MiB allowed"
        return None


def measure(folders: tuple[Path, ...]) -> tuple[int, int]:
    """Bytes on disk and entries below these folders, following no link; stops early when there are far too many."""
    used_bytes = entries = 0
    waiting = [str(folder) for folder in folders]
    while waiting and entries <= ENTRIES_MAX:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    entries += 1
                    used_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # the app removed it meanwhile
    return used_bytes, entries
