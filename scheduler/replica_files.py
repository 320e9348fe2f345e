"""A replica's folders on disk, and each step of filling them. Blocking: everything here runs in a worker thread.

    apps/<replica>/           0700, or 0711 where the app has a uid of its own
        record.bin            what it is and which run is the newest (the daemon's; the app cannot read it)
        run/                  0700: the shim's record and control socket
        work/                 the unpacked source: the app's, writable
        requirements.txt      as delivered, where dependencies are to be installed
        tmp/                  the app's, where the sandbox gives it no /tmp of its own
        bin/                  `python` and `python3`: the interpreter that this sandbox has
    logs/<app>/<replica>.log  outlives the replica
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import FailedError, FreecloudError
from scheduler.runtimes.messages import RUNTIME, ReplicaPlan, ReplicaRecord
from scheduler.runtimes.sandbox import Sandbox

MEMORY_FOLDERS = ("/dev/shm", "/run")  # noqa: S108 - checked to be memory before use
SECRET_NAME_BYTES_MAX = 200
REQUIREMENTS_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class RunnerFolders:
    """Where a node keeps what its apps need."""

    apps: Path
    logs: Path
    venvs: Path


@dataclass(frozen=True, slots=True)
class ReplicaFolder:
    """The folder of one replica."""

    path: Path

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def unpacking(self) -> Path:
        return self.path / "work.new"

    @property
    def requirements(self) -> Path:
        return self.path / "requirements.txt"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def installation(self) -> Path:
        return self.path / "install"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def programs(self) -> Path:
        return self.path / "bin"

    @property
    def record(self) -> Path:
        return self.path / "record.bin"


def make_folder(folder: ReplicaFolder, sandbox: Sandbox, replica_id: str) -> None:
    """Everything but the source; safe to repeat, and repeated before each run: the sandbox may be another one now."""
    owner = sandbox.owner_of(replica_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.path.chmod(0o700 if owner is None else 0o711)
    folder.run.mkdir(mode=0o700, exist_ok=True)
    folder.tmp.mkdir(mode=0o700, exist_ok=True)
    folder.programs.mkdir(exist_ok=True)
    folder.programs.chmod(0o755)
    for name in ("python", "python3"):
        link = folder.programs / name
        if not link.is_symlink() or link.readlink() != sandbox.interpreter.path:
            link.unlink(missing_ok=True)
            link.symlink_to(sandbox.interpreter.path)
    for place in (folder.tmp, folder.work):
        wanted = os.getuid() if owner is None else owner
        if place.exists() and place.lstat().st_uid != wanted:
            _give(place, wanted)


def clear_unfinished(folder: ReplicaFolder) -> bool:
    """Ready the place for the source; False when the source is there already."""
    if folder.work.exists():
        return False
    shutil.rmtree(folder.unpacking, ignore_errors=True)
    return True


def finish_unpacking(folder: ReplicaFolder, sandbox: Sandbox, plan: ReplicaPlan) -> None:
    """Turn what was unpacked into the app's folder: whole or not at all, whatever happens in between.

    The requirements file is kept apart, as it was delivered: the app can change its own copy (attack 37).
    """
    if plan.install:
        source = folder.unpacking / plan.install
        if not source.resolve().is_relative_to(folder.unpacking.resolve()) or not source.is_file():
            raise FailedError(f"the source of {plan.app} has no file {plan.install}", hint="see `install` in app.yaml")
        if source.stat().st_size > REQUIREMENTS_BYTES_MAX:
            raise FailedError(f"{plan.install} is larger than {REQUIREMENTS_BYTES_MAX} bytes")
        folder.requirements.write_bytes(source.read_bytes())
    owner = sandbox.owner_of(plan.replica_id)
    folder.unpacking.chmod(0o700)
    if owner is not None:
        _give(folder.unpacking, owner)
    folder.unpacking.rename(folder.work)


def write_record(folder: ReplicaFolder, record: ReplicaRecord) -> None:
    """Replace the replica's record. Not fsynced: it speaks of processes, and a power cut ends those too."""
    fresh = folder.path / "record.new"
    fresh.touch(mode=0o600)
    fresh.write_bytes(RUNTIME.encode(record))
    fresh.rename(folder.record)


def read_records(folders: RunnerFolders) -> dict[str, ReplicaRecord | None]:
    """Every replica that has a folder here; None for one whose record is missing or cannot be read."""
    found: dict[str, ReplicaRecord | None] = {}
    folders.apps.mkdir(parents=True, exist_ok=True)
    for entry in sorted(folders.apps.iterdir()):
        if entry.name.startswith("."):
            continue
        try:
            record = RUNTIME.decode((entry / "record.bin").read_bytes(), ReplicaRecord)
        except (OSError, FreecloudError):
            found[entry.name] = None
        else:
            found[entry.name] = record if record.plan.replica_id == entry.name else None
    return found


def remove_folder(folder: ReplicaFolder) -> None:
    """The replica is gone: everything of it but its log. Follows no link that the app may have left."""
    shutil.rmtree(folder.path, ignore_errors=True)


def empty(folder: ReplicaFolder) -> None:
    """Forget what the app wrote; the source is unpacked again."""
    for place in (folder.work, folder.tmp):
        shutil.rmtree(place, ignore_errors=True)


def write_secrets(values: Mapping[str, str], owner: int | None) -> Path | None:
    """Each secret as a file (0400) in a folder of memory; the shim removes it when the run ends.

    Raises:
        FailedError: This machine has no folder in memory, and a secret goes to no disk (rule T7).
    """
    if not values:
        return None
    root = memory_folder()
    folder = root / f"freecloud-{secrets.token_hex(16)}"
    folder.mkdir(mode=0o700)
    for name, value in values.items():
        if "/" in name or name in ("", ".", "..") or len(name.encode()) > SECRET_NAME_BYTES_MAX:
            raise FailedError(f"a secret cannot be called {name!r}")
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        with os.fdopen(fd, "wb") as file:
            file.write(value.encode())
    if owner is not None:
        _give(folder, owner)
    return folder


def memory_folder() -> Path:
    """A folder of this machine that is memory and nothing else."""
    kinds = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        kinds[place] = kind
    for place in MEMORY_FOLDERS:
        if kinds.get(place) in ("tmpfs", "ramfs") and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise FailedError("this node has no folder in memory for secrets", hint="mount a tmpfs on /dev/shm")


def environment_of(
    plan: ReplicaPlan,
    folder: ReplicaFolder,
    *,
    port: int,
    venv: Path | None,
    secret_values: Mapping[str, str],
    secrets_folder: Path | None,
    private_tmp: bool,
    node: Mapping[str, str],
) -> dict[str, str]:
    """The app's environment: ours first, then the manifest's, then secrets, then what nobody may override."""
    path = [str(venv / "bin")] if venv is not None else []
    path += [str(folder.programs), "/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]
    environment = {
        "PATH": ":".join(path),
        "LANG": "C.UTF-8",
        "HOME": str(folder.work),
        "TMPDIR": "/tmp" if private_tmp else str(folder.tmp),  # noqa: S108 - the sandbox's own
        "PYTHONUNBUFFERED": "1",
        **dict(plan.environment),
        **secret_values,
        **node,
        "PORT": str(port),
        "FREECLOUD_APP": plan.app,
        "FREECLOUD_RELEASE": str(plan.release),
        "FREECLOUD_REPLICA": plan.replica_id,
        "FREECLOUD_ASSIGNMENT": str(plan.assignment_index),
    }
    if venv is not None:
        environment["VIRTUAL_ENV"] = str(venv)
    if secrets_folder is not None:
        environment["SECRETS_DIR"] = str(secrets_folder)
    return environment


def _give(folder: Path, owner: int) -> None:
    """Make a tree that only the daemon could write so far another user's; links are given, never followed."""
    os.chown(folder, owner, owner, follow_symlinks=False)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(place) / name, owner, owner, follow_symlinks=False)
