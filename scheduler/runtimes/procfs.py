# ruff: noqa: PTH116, PTH123, PTH208
# `pathlib` would double what a shim weighs.
"""What the kernel says of processes: who is who, and since when (fault P5).

A process is named by its pid *and* its start time, within one boot of the machine; a pid alone may be a stranger's.
Imported by the shim: only `os` and `time`, and no `pathlib`.
"""

from __future__ import annotations

import os
import time


def boottime() -> float:
    """Seconds that go on counting while the machine sleeps; CLOCK_MONOTONIC stands still there (fault C4)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def boot_id() -> str:
    """This boot of this machine; empty where the kernel doesn't tell."""
    return read_file("/proc/sys/kernel/random/boot_id").decode().strip()


def start_time_of(pid: int) -> int:
    """Field 22 of /proc/PID/stat: clock ticks after boot at which it started; 0 when there is no such process."""
    after_name = read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if len(after_name) < 20 or after_name[0] == b"Z":
        return 0
    return int(after_name[19])


def is_running(pid: int, start_time: int) -> bool:
    """Whether this very process still runs; a zombie does not."""
    return start_time != 0 and start_time_of(pid) == start_time


def numbers_in(path: str) -> list[int]:
    """The process ids in a file such as `cgroup.procs` or `children`; none when there is no such file."""
    return [int(word) for word in read_file(path).split() if word.isdigit()]


def processes_with(variable: str) -> list[int]:
    """Processes that were started with exactly this `NAME=value` in their environment, as far as we may look."""
    wanted = variable.encode()
    names = [name for name in os.listdir("/proc") if name.isdigit()]
    return [int(name) for name in names if wanted in read_file(f"/proc/{name}/environ").split(b"\0")]


def processes_with_arguments(*arguments: str) -> list[int]:
    """Processes whose command line ends in exactly these arguments."""
    wanted = b"".join(argument.encode() + b"\0" for argument in arguments)
    names = [name for name in os.listdir("/proc") if name.isdigit()]
    return [int(name) for name in names if read_file(f"/proc/{name}/cmdline").endswith(wanted)]


def threads_of_user(uid: int) -> int:
    """How many threads this user has now: what RLIMIT_NPROC counts."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it ended meanwhile
    return count


def kill(pid: int, number: int) -> None:
    """Signal one process; nothing happens when it is dead, or somebody else's by now."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def kill_group(group: int, number: int) -> None:
    """Signal a process group; nothing happens when it is empty."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def read_file(path: str) -> bytes:
    """The bytes of a small file, or nothing when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
