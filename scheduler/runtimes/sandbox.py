"""What stands between an app and this machine: the ladder of rule A3 (attacks 34 and 35).

    bubblewrap   its own view of the file system, processes, IPC and host name; under root also its own uid
    uid          its own uid, under root alone, where namespaces are not to be had (most containers)
    landlock     the daemon's uid, but only named paths, no signals to outsiders, no unix sockets
    none         nothing; only for a node whose owner started it with --unsandboxed

A rung only turns a `Launch` into a command line: the work is done by `bwrap` and `confine.py` after the shim has
spawned them. No rung is believed in: `sandbox_probe.py` runs each before it is used.

The network is the same on every rung: an app can be reached at its own port, and reaches whatever is far, but nothing
of this machine and no metadata address (`socket_rules.py`, `shim_sockets.py`, `shim_connects.py`); abstract unix
sockets are closed by an empty network namespace, by Landlock's scope, or with all unix sockets. Where the kernel cannot
do it (before 5.9), a rung is named with "open network".
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from scheduler.runtimes import confine
from scheduler.runtimes.procfs import threads_of_user
from scheduler.runtimes.runtime import Launch
from scheduler.runtimes.shim_wire import ENV_FD, INFO_FD, SOCKETS_FD

OPEN_NETWORK = "open network"
"""Said of a rung on which apps reach what listens on this machine."""

OOM_SCORE = 500
"""Of 1000: when memory runs out the kernel takes an app before the daemon (0)."""

CONFINE_INSIDE = "/run/freecloud/confine.py"

SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "debian_version", "fonts", "gai.conf", "group",
    "host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "lsb-release", "mime.types",
    "nsswitch.conf", "os-release", "passwd", "perl", "php", "pki", "protocols", "redhat-release", "resolv.conf",
    "services", "ssl", "terminfo", "timezone",
)  # fmt: skip
"""What programs need of /etc; named one by one, because a daemon that is root could read the rest for its app."""

LANDLOCK_READABLE = (
    "/usr", *SYSTEM_FOLDERS, *[f"/etc/{name}" for name in ETC], "/proc", "/dev/urandom", "/dev/random", "/dev/zero",
    "/sys/devices/system/cpu",
)  # fmt: skip
LANDLOCK_WRITABLE = ("/dev/null", "/dev/full", "/dev/tty")

PRIVATE_TMP_BYTES = 64 * 1024 * 1024
"""A sandbox's /tmp is memory; without a bound it would be everybody's."""

UID_FIRST, UID_COUNT = 1_000_000_000, 1_000_000_000
"""Far above any account; so many that two replicas of one machine never share one by chance (one in 10^7)."""


class Rung(Enum):
    BUBBLEWRAP = "bubblewrap"
    UID = "uid"
    LANDLOCK = "landlock"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that apps can run on this rung."""

    path: Path
    prefix: Path  # what must be readable for it


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One rung, ready to be used.

    Args:
        rung: Which.
        seed: Tells this node's uids from those of another node on the same machine.
        interpreter: What `python` means to an app, and what runs `confine.py` inside.
        shim_python: The daemon's interpreter, for the stage outside.
        bwrap: Path of bubblewrap, on its rung.
        sized_tmp: Whether this bubblewrap can bound a tmpfs.
        brokered: Whether the shim makes the app's internet sockets.
        scoped: Whether this kernel's Landlock can close abstract unix sockets.
        supervised: Whether the shim makes the app's connections as well, for want of a filter on TCP sockets.
        own_network: Whether bubblewrap gives an empty network namespace, which closes them, too.
    """

    rung: Rung
    seed: str
    interpreter: Interpreter
    shim_python: str
    bwrap: str = ""
    sized_tmp: bool = False
    brokered: bool = False
    scoped: bool = False
    own_network: bool = False
    supervised: bool = False

    @property
    def name(self) -> str:
        """What a person is told."""
        if self.brokered or self.rung is Rung.NONE:
            return self.rung.value
        return f"{self.rung.value}, {OPEN_NETWORK}"

    def sockets(self, launch: Launch) -> dict[str, Any] | None:
        """What the shim needs to know to make this app's sockets; None: the app makes them itself."""
        if not self.brokered:
            return None
        numbers = confine.MACHINES[os.uname().machine][1]
        port = int(launch.environment.get("PORT", "0"))
        return {
            "owner": self.owner_of(launch.replica_id),
            "port": port,
            "supervised": self.supervised,
            "connect": numbers["connect"],
        }

    def owner_of(self, replica_id: str) -> int | None:
        """The uid (and gid) that this replica's files must belong to; None: the daemon's own."""
        own = self.rung is Rung.UID or (self.rung is Rung.BUBBLEWRAP and os.getuid() == 0)
        return _uid_of(self.seed, replica_id) if own else None

    def private_tmp(self) -> bool:
        """Whether /tmp is the app's own; elsewhere the replica needs a folder for it."""
        return self.rung is Rung.BUBBLEWRAP

    def wrap(self, launch: Launch, groups: tuple[str, ...] = ()) -> list[str]:
        """The command line that ends in the launch's command, confined.

        Args:
            launch: What to run.
            groups: Folders of control groups to enter before anything else.
        """
        inner = self._inner_options(launch)
        closed = (self.scoped or self.own_network) and not self.supervised
        match self.rung:
            case Rung.BUBBLEWRAP:
                outer: dict[str, Any] = {"death_signal": 9, "oom_score": OOM_SCORE, "umask": 0o022}
                outer |= {"close_from": SOCKETS_FD + 1, "cgroups": groups}
                python = str(self.interpreter.path)
                inner["scoped"] = self.scoped
                inner["seccomp"] = "base" if closed or not self.brokered else "no-unix"
                return [
                    *_confine(self.shim_python, confine.__file__, outer),
                    *self._bubblewrap(launch),
                    *_confine(python, CONFINE_INSIDE, inner),
                    *launch.command,
                ]
            case Rung.LANDLOCK:
                inner["landlock"] = {
                    "read": [*LANDLOCK_READABLE, str(self.interpreter.prefix), *_readable(launch)],
                    "write": [*LANDLOCK_WRITABLE, *_writable(launch)],
                }
                inner["seccomp"] = "no-unix"
            case Rung.UID:
                inner["scoped"] = self.scoped
                inner["seccomp"] = "base" if closed else "no-unix"
            case Rung.NONE:
                del inner["seccomp"], inner["drop_capabilities"]
        inner |= {"death_signal": 9, "oom_score": OOM_SCORE, "cgroups": groups}
        return [*_confine(self.shim_python, confine.__file__, inner), *launch.command]

    def _inner_options(self, launch: Launch) -> dict[str, Any]:
        options: dict[str, Any] = {
            "cwd": str(launch.work),
            "umask": 0o022,
            "rlimits": {
                "nproc": self._processes_max(launch),
                "nofile": launch.limits.descriptors,
                "core": 0,
                "fsize": launch.limits.disk_bytes,
            },
            "drop_capabilities": True,
            "seccomp": "base",
            "env_fd": ENV_FD,
        }
        if self.brokered:
            options["sockets_fd"] = SOCKETS_FD
        if self.supervised:
            options["listen_at"] = int(launch.environment.get("PORT", "0"))
        owner = self.owner_of(launch.replica_id)
        if owner is not None:
            options |= {"uid": owner, "gid": owner}
        return options

    def _processes_max(self, launch: Launch) -> int:
        """RLIMIT_NPROC counts a uid's processes within a user namespace: alone there, the app's limit is the limit;
        sharing the daemon's uid, what that has already comes on top."""
        if self.owner_of(launch.replica_id) is not None or self.rung is Rung.BUBBLEWRAP:
            return launch.limits.pids
        return launch.limits.pids + threads_of_user(os.getuid())

    def _bubblewrap(self, launch: Launch) -> list[str]:
        argv = [self.bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
        if os.getuid() == 0:
            # A real uid of its own protects more than a user namespace in which root is still root outside; taking
            # it needs these two, which the change of user itself gives up again.
            argv += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            argv += ["--unshare-user"]
        if self.own_network:
            argv += ["--unshare-net"]  # what the shim makes is of the machine's network; nothing else needs one
        argv += ["--new-session", "--die-with-parent", "--hostname", launch.replica_id]
        argv += ["--info-fd", str(INFO_FD), "--ro-bind", "/usr", "/usr"]
        for folder in SYSTEM_FOLDERS:
            if Path(folder).is_symlink():
                argv += ["--symlink", str(Path(folder).readlink()), folder]
            else:
                argv += ["--ro-bind-try", folder, folder]
        for folder in ("/etc", "/run", "/run/freecloud", "/var"):
            argv += _folder(folder)
        for name in ETC:
            argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        size = ["--size", str(PRIVATE_TMP_BYTES)] if self.sized_tmp else []
        argv += ["--proc", "/proc", "--dev", "/dev", *size, "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
        argv += ["--symlink", "/tmp", "/var/tmp"]  # noqa: S108
        argv += ["--ro-bind", confine.__file__, CONFINE_INSIDE]
        readable = [path for path in (str(self.interpreter.prefix), *_readable(launch)) if not _in_usr(path)]
        writable = _writable(launch)
        for folder in _ancestors([*readable, *writable]):
            argv += _folder(folder)
        for path in readable:
            argv += ["--ro-bind", path, path]
        for path in writable:
            argv += ["--bind", path, path]
        return [*argv, "--remount-ro", "/", "--chdir", "/", "--"]


def sandbox_without_rung(seed: str, interpreter: Interpreter, shim_python: str) -> Sandbox:
    """What `--unsandboxed` asks for: limits, a group of its own, and no protection."""
    return Sandbox(Rung.NONE, seed, interpreter, shim_python)


def _confine(python: str, script: str, options: dict[str, Any]) -> list[str]:
    return [python, "-I", "-S", script, json.dumps(options, separators=(",", ":"))]


def _readable(launch: Launch) -> list[str]:
    secrets = [launch.secrets_folder] if launch.secrets_folder is not None else []
    return [str(path) for path in (*launch.readable, *secrets)]


def _writable(launch: Launch) -> list[str]:
    return [str(path) for path in (launch.work, *launch.writable)]


def _folder(path: str) -> list[str]:
    """A folder that the app's user can pass through: bubblewrap makes them for its own user alone."""
    return ["--perms", "0755", "--dir", path]


def _in_usr(path: str) -> bool:
    return Path(path).is_relative_to("/usr")


def _ancestors(paths: list[str]) -> list[str]:
    """Every folder above these paths, upper ones first, without those that the sandbox has anyway."""
    present = {"/", "/usr", "/etc", "/tmp", "/run", "/dev", "/proc", "/var"}  # noqa: S108
    found = {str(parent) for path in paths for parent in Path(path).parents}
    return sorted(found - present)


def _uid_of(seed: str, replica_id: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{replica_id}".encode(), digest_size=8).digest()
    return UID_FIRST + int.from_bytes(digest, "big") % UID_COUNT
