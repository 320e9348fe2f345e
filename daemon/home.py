"""The state directory: one folder, one daemon (its layout, its lock, the ports it chose).

HOME/
  freecloud.toml     what the owner set (optional)
  lock               held by the running daemon; names its pid
  identity/          the node's key and certificate (0600; the one secret in clear, rule T7)
  mesh               which mesh this home belongs to, and whom to call first
  boot               the counter of starts (fsynced, rule T3)
  place              never written again: its change time tells this home from a copy of it (rule T3)
  removed            there when the mesh removed this node: its key never comes back (rule T2)
  log/ snapshots/    the sealed Raft log and the ledger's snapshots
  bundles/           releases' sources by content address
  apps/ logs/        what runs here, and what it wrote
  run/daemon.sock    the API for this machine's owner (0600, peer credentials)
  ports.json         the ports in use, kept across restarts
  lost+found/        state that was moved aside and never deleted (rule T3)
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from consensus.disk import disk_failure
from mesh.errors import FailedError, RefusedError, UsageError

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")

SOCKET_PATH_BYTES_MAX = 107
"""sun_path of Linux has 108 bytes with its NUL."""


@dataclass(frozen=True, slots=True)
class Home:
    """The paths under one state directory; nothing here touches the disk but `prepare`."""

    root: Path

    @property
    def toml(self) -> Path:
        return self.root / "freecloud.toml"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    @property
    def mesh(self) -> Path:
        return self.root / "mesh"

    @property
    def boot(self) -> Path:
        return self.root / "boot"

    @property
    def place(self) -> Path:
        return self.root / "place"

    @property
    def removed(self) -> Path:
        return self.root / "removed"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def apps(self) -> Path:
        return self.root / "apps"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def socket(self) -> Path:
        return self.root / "run" / "daemon.sock"

    @property
    def daemon_log(self) -> Path:
        return self.root / "daemon.log"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def lost_and_found(self) -> Path:
        return self.root / "lost+found"

    def prepare(self) -> None:
        """Make the folder and its parts, readable by their owner alone.

        Raises:
            UsageError: It cannot be made or written.
        """
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES_MAX:
            raise UsageError(
                f"the home {self.root} has too long a path",
                why=f"its socket's path may have {SOCKET_PATH_BYTES_MAX} bytes",
                hint="choose a shorter --home",
            )
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.identity, self.log, self.snapshots, self.bundles, self.logs, self.socket.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            # An app's own user must be able to pass through to its replica's folder, and see nothing else.
            self.apps.mkdir(mode=0o711, exist_ok=True)
            self.lost_and_found.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot use {self.root} as home", why=os.strerror(error.errno or 0), hint="choose another --home"
            ) from error
        if not os.access(self.root, os.W_OK):
            raise UsageError(f"cannot write to {self.root}", hint="choose another --home")


def place_of(home: Home) -> int:
    """A number of where this home lies, the same for ever; a copy, and a copy of a copy, have another.

    It is the change time of a file that is written once. No program can set that time, so `cp -a`, rsync and backups
    keep everything but this; a snapshot below the file system keeps it too (docs/decisions/whose-memory.md).
    """
    try:
        return home.place.stat().st_ctime_ns
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(home.place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"The change time of this file tells a home from its copies.\n")
            os.fsync(descriptor)
            changed_at = os.fstat(descriptor).st_ctime_ns
        finally:
            os.close(descriptor)
        _sync_folder(home.root)
    except OSError as error:
        raise disk_failure(error, "write", str(home.place)) from error
    return changed_at


class HomeLock:
    """Held for the life of the daemon; the kernel lets go of it when the process dies, however it dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, home: Home) -> HomeLock:
        """Take the lock.

        Raises:
            RefusedError: Another daemon runs in this home; the message names its pid.
        """
        descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise FailedError(f"cannot lock {home.lock}", why=os.strerror(error.errno or 0)) from error
            raise RefusedError(
                f"a daemon runs in {home.root} already",
                why=f"pid {holder}" if holder else "",
                hint="stop it with `freecloud down`, or choose another --home",
                code="home.in-use",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


def daemon_pid(home: Home) -> int | None:
    """The pid of the daemon that runs in this home, or None."""
    try:
        descriptor = os.open(home.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None  # no home, no lock, or not ours to look at: nothing that we could talk to
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        text = os.read(descriptor, 32).decode(errors="replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file's content so that after a power cut it is the old or the new one (fault D10).

    Raises:
        NoSpace: The disk is full; the old content stays.
        DiskError: It failed.
    """
    try:
        _replace(path, content, mode)
    except OSError as error:
        raise disk_failure(error, "write", str(path)) from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_ports(home: Home) -> dict[str, str]:
    """The addresses that were in use at the last start, by listener: {"mesh": "127.0.0.1:6700", …}.

    A wish and no more: what is not an address, for whatever reason, is as if it were not there.
    """
    try:
        stored = json.loads(home.ports.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {key: value for key, value in stored.items() if isinstance(value, str) and _is_address(value)}


def _is_address(text: str) -> bool:
    found = _ADDRESS.fullmatch(text)
    return found is not None and 0 < int(found[2]) < 65536


def save_ports(home: Home, ports: dict[str, str]) -> None:
    write_atomically(home.ports, json.dumps(ports, indent=1, sort_keys=True).encode())
