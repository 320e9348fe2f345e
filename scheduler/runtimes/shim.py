"""One run of one replica: the small process between the daemon and the app (rule A2).

Intuition: the daemon is a landlord who may drop dead and be replaced at any moment; the shim is the janitor who
lives in the house. He started the app, holds its output, knows how it ended, and turns everything off when no
landlord has looked in for too long.

    daemon ── spec on stdin ──► shim ── spawns ──► app (its own session and process group)
       ▲                         │ ▲
       └── unix socket, JSON ────┘ └── stdout, stderr by pipes, into bounded, rotated logs

It is started as `python -I -S shim.py` and has to stay small: 3.7 MB of private memory. `json` and `socket` would add
1.8, because they pull in `re` and `enum`: hence their C halves. Compiling would add 1.2: hence this file, which is
compiled at each start, holds no more than the entry, and the rest, `shim_run.py` and what that imports, comes from the
cache of compiled modules. All of it is imported before the app starts, so an upgrade on disk changes nothing in a shim.

Single-threaded on purpose: the parent-death signal of its child follows the *thread* that forked it.

The protocol, version 1: one JSON object a line, one answer a request, over `control.sock` (0600) in the run's folder.

    {"v": 1, "op": "status", "run": ID}                       what runs, since when
    {"v": 1, "op": "renew",  "run": ID, "entitled": SECONDS}  a daemon lives; SECONDS of CLOCK_BOOTTIME at which the
                                                              replica was last known to belong here
    {"v": 1, "op": "adopt",  "run": ID, "entitled": SECONDS}  the same, by a daemon that just started; noted in the log
    {"v": 1, "op": "stop",   "run": ID, "grace": SECONDS}     SIGTERM, then SIGKILL; answered at once
    {"v": 1, "op": "watch",  "run": ID}                       answered now, and by one more line when the run has ended

Source: the shim of containerd (`runtime/v2`), reduced to one run; faults P5, attacks 34, 37 and 39.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Isolated mode knows no folder but the standard library's; the shim's parts are found beside this file.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

from scheduler.runtimes.shim_run import Shim
from scheduler.runtimes.shim_wire import decode

SPEC_BYTES_MAX = 1024 * 1024


def main() -> None:
    """`shim.py FOLDER`, the spec on stdin; says `ready PID` on stdout, or why not, and closes it."""
    folder = sys.argv[1]
    os.umask(0o077)
    with open(0, "rb", closefd=False) as file:
        shim = Shim(folder, decode(file.read(SPEC_BYTES_MAX).decode()))
    try:
        shim.listen()
        shim.catch_signals()
        shim.spawn()
    except OSError as error:
        os.write(1, f"failed {error}\n".encode(errors="replace"))
        sys.exit(1)
    os.write(1, f"ready {os.getpid()}\n".encode())
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    shim.run()


if __name__ == "__main__":
    main()
