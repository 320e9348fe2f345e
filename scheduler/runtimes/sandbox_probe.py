"""Which rung of the ladder this machine really has: each is run, not believed (rule A3).

A probe is a run like any app's, under a shim, of a small script that tries what an app must not: read a file of the
daemon's, reach its sockets; and what an app must be able to: write its own folder, listen at its own port. The first
rung that holds is used, with the network closed if it can be.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from mesh.errors import FailedError
from scheduler.ports import free_port
from scheduler.runtimes import confine
from scheduler.runtimes.cgroups import NO_CONTROL_GROUPS, ControlGroups
from scheduler.runtimes.logs import read_tail
from scheduler.runtimes.process import ProcessRuntime
from scheduler.runtimes.procfs import boottime
from scheduler.runtimes.runtime import Launch, ResourceLimits
from scheduler.runtimes.sandbox import Interpreter, Rung, Sandbox, sandbox_without_rung

PROBE_S_MAX = 15.0

LADDER = (Rung.BUBBLEWRAP, Rung.UID, Rung.LANDLOCK)

SCRIPT = """
import os, socket, sys
open("written", "w").write("by the app")
try:
    open(sys.argv[1] + "/key").read()
    sys.exit("the daemon's files can be read")
except OSError:
    pass
try:
    os.chdir(sys.argv[1])
    socket.socket(socket.AF_UNIX).connect("socket")
    sys.exit("the daemon's socket can be reached")
except OSError:
    pass
port, closed = int(sys.argv[2]), sys.argv[3] == "closed"
listener = socket.socket()
listener.bind(("127.0.0.1", int(os.environ["PORT"])))
listener.listen()
socket.create_connection(listener.getsockname(), 5).close()
for address in ("127.0.0.1", "::ffff:127.0.0.1") if closed else ():
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(1)
            sock.connect((address, port))
        sys.exit("the daemon's port can be reached")
    except OSError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the ladder gives here."""

    sandbox: Sandbox | None  # None: this node takes no apps
    reasons: tuple[tuple[Rung, str], ...]  # each rung that was tried and does not hold, and why

    @property
    def rung(self) -> str:
        """For the node's record: "none" both for a node without protection and for one without apps."""
        return self.sandbox.name if self.sandbox is not None else Rung.NONE.value


async def probe_ladder(
    folder: Path,
    *,
    seed: str,
    groups: ControlGroups = NO_CONTROL_GROUPS,
    only: Rung | None = None,
    unsandboxed: bool = False,
) -> Probed:
    """Try the rungs from the best down.

    Args:
        folder: Where replicas will live; the probes use a folder of their own in it.
        seed: The node's id: with it, uids differ between nodes of one machine.
        groups: The control groups that this node may make.
        only: The one rung that the owner wants, which may be none; None: the best that holds.
        unsandboxed: The owner accepts that nothing protects this machine from its apps; used only if no rung holds.
    """
    await trio.to_thread.run_sync(lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True))
    reasons: list[tuple[Rung, str]] = []
    for rung in LADDER if only is None else {only} - {Rung.NONE}:
        sandbox, why = await probe_rung(rung, folder, seed=seed, groups=groups)
        if sandbox is not None:
            return Probed(sandbox, tuple(reasons))
        reasons.append((rung, why))
    if not unsandboxed:
        return Probed(None, tuple(reasons))
    return Probed(sandbox_without_rung(seed, interpreters()[0], _shim_python()), tuple(reasons))


async def probe_rung(
    rung: Rung, folder: Path, *, seed: str, groups: ControlGroups
) -> tuple[Sandbox | None, str]:
    """The rung with the first interpreter that works on it, or None and what was wrong.

    With a closed network if one of them works with it; else what closing it came to is part of what was wrong.
    """
    missing = _missing(rung, groups)
    if missing is not None:
        return None, missing
    why = "no Python for apps was found"
    scoped = confine.landlock_abi() >= confine.LANDLOCK_ABI_MIN
    for network, interpreter in itertools.product(_networks(rung, scoped), interpreters()):
        sandbox = await trio.to_thread.run_sync(_sandbox, rung, seed, interpreter)
        brokered, own, supervised = network
        sandbox = replace(sandbox, scoped=scoped, brokered=brokered, own_network=own, supervised=supervised)
        closed = _open_the_way(folder) if rung is Rung.UID else []
        why_not = await _try(sandbox, folder, groups)
        if why_not is None:
            return sandbox, ""
        why = why_not
        for place, mode in closed:
            place.chmod(mode)
    return None, why


def _networks(rung: Rung, scoped: bool) -> list[tuple[bool, bool, bool]]:
    """How the network can be closed (`brokered`, `own_network`, `supervised`), best first, and last: not at all."""
    ways = [(True, True, False)] if rung is Rung.BUBBLEWRAP else []
    ways.append((True, False, False))
    if scoped:
        ways.append((True, False, True))
    return [*ways, (False, False, False)]


def interpreters() -> tuple[Interpreter, ...]:
    """Pythons for apps, the daemon's own kind first: a venv is of no use to them, what it was made from is."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = {base: Interpreter(base, Path(sys.base_prefix).resolve())}
    for place in ("/usr/local/bin/python3", "/usr/bin/python3"):
        path = Path(place)
        if path.exists():
            found.setdefault(path.resolve(), Interpreter(path.resolve(), path.resolve().parents[1]))
    return tuple(found.values())


def _missing(rung: Rung, groups: ControlGroups) -> str | None:
    """What can be seen to be lacking without running anything."""
    if rung is Rung.BUBBLEWRAP and shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    if rung is Rung.UID and os.getuid() != 0:
        return "only root can give each app a uid of its own"
    if rung is Rung.LANDLOCK and os.getuid() == 0 and not groups.controls("pids"):
        return "root's processes can only be counted by control groups, and this daemon may not make any"
    if rung is Rung.LANDLOCK and os.uname().machine not in confine.MACHINES:
        return f"no system call filter for {os.uname().machine}"
    return None


def _open_the_way(folder: Path) -> list[tuple[Path, int]]:
    """Let other users pass through (not look into) the home to replicas' folders; returns what was closed before.

    Everything else in a home is the daemon's alone by its own mode. Folders above the home are not ours to open.
    """
    closed = []
    for place in (folder.parent, folder):
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode & 0o011 != 0o011:
            closed.append((place, mode))
            place.chmod(mode | 0o011)
    return closed


def _sandbox(rung: Rung, seed: str, interpreter: Interpreter) -> Sandbox:
    bwrap = shutil.which("bwrap") or "" if rung is Rung.BUBBLEWRAP else ""
    return Sandbox(rung, seed, interpreter, _shim_python(), bwrap=bwrap, sized_tmp=bool(bwrap) and _sizes_tmp(bwrap))


def _sizes_tmp(bwrap: str) -> bool:
    """Whether it knows `--size`, which came with 0.7."""
    with os.popen(f"{bwrap} --help 2>/dev/null") as output:  # noqa: S605 - a path that `which` found
        return "--size" in output.read()


def _shim_python() -> str:
    return os.path.realpath(sys.executable)


async def _try(sandbox: Sandbox, folder: Path, groups: ControlGroups) -> str | None:
    """Run the script on this rung; None when it holds, else what went wrong."""
    runtime = ProcessRuntime(sandbox, groups=groups)
    with _probe_folder(folder, sandbox) as (place, launch):
        try:
            run = await runtime.start(launch, deadline=trio.current_time() + PROBE_S_MAX)
        except FailedError as error:
            return str(error)
        with trio.move_on_after(PROBE_S_MAX):
            ended = await run.wait_exit()
            if ended.code == 0 and (place / "work" / "written").exists():
                return None
            lines, _ = read_tail(launch.log, 20, 16 * 1024)
            said = [line.text for line in lines if line.stream == "stderr"]
            return said[-1] if said else str(ended)
        await run.stop(0.0)
    return f"no answer within {PROBE_S_MAX:g} s"


@contextmanager
def _probe_folder(folder: Path, sandbox: Sandbox) -> Iterator[tuple[Path, Launch]]:
    """A stand-in for a node's home, with a file and a socket that an app must not reach."""
    owner = sandbox.owner_of("probe-1")
    place = Path(tempfile.mkdtemp(prefix=".probe-", dir=folder))
    listener = socket.socket(socket.AF_UNIX)
    beside = socket.create_server(("127.0.0.1", 0))
    try:
        place.chmod(0o711)
        for name in ("work", "run", "private"):
            (place / name).mkdir(mode=0o700)
        (place / "private" / "key").write_text("secret")
        (place / "private" / "key").chmod(0o600)
        fd = os.open(place / "private", os.O_PATH | os.O_DIRECTORY)
        listener.bind(f"/proc/self/fd/{fd}/socket")  # the folder's own path may be too long for a socket's address
        os.close(fd)
        listener.listen(1)
        if owner is not None:
            os.chown(place / "work", owner, owner)
        yield place, _launch(place, sandbox, beside.getsockname()[1])
    finally:
        listener.close()
        beside.close()
        shutil.rmtree(place, ignore_errors=True)


def _launch(place: Path, sandbox: Sandbox, port: int) -> Launch:
    closed = "closed" if sandbox.brokered else "open"
    return Launch(
        replica_id="probe-1",
        run_id=secrets.token_hex(8),
        group="probe-1",
        command=(str(sandbox.interpreter.path), "-I", "-S", "-c", SCRIPT, str(place / "private"), str(port), closed),
        environment={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PORT": str(free_port(random.Random()))},
        work=place / "work",
        run_folder=place / "run",
        log=place / "run" / "probe.log",
        readable=(),
        writable=(),
        secrets_folder=None,
        limits=ResourceLimits(cpu=1.0, memory_bytes=64 << 20, disk_bytes=1 << 20),
        exclusive=False,
        renewal_limit_s=PROBE_S_MAX,
        entitled=boottime(),
    )
