"""Python packages that an app asks for (`install: requirements.txt`), in virtual environments shared by content.

An environment is named by a hash of the requirements as delivered, the interpreter and, where the file refers to
other files of the source, the bundle: so a second replica, a restart and the next release find it ready. It is made
by the app's own user within the same sandbox as the app (a package's build script is code like any other) and is
read-only to apps afterwards. A half-made one has no mark and is made anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import trio

from mesh.errors import FailedError
from scheduler.replica_files import ReplicaFolder
from scheduler.runtimes.messages import ReplicaPlan
from scheduler.runtimes.procfs import boottime
from scheduler.runtimes.runtime import (
    RENEW_EVERY_S,
    RENEWAL_LIMIT_S,
    Launch,
    ResourceLimits,
    Run,
    RunExit,
    Runtime,
)
from scheduler.runtimes.sandbox import Sandbox

INSTALL_S_MAX = 600.0
INSTALL_MEMORY_BYTES_MIN = 512 * 1024 * 1024
VENV_BYTES_MAX = 2 * 1024 * 1024 * 1024
VENVS_KEPT = 20
MARK = ".complete"

_REFERS_TO_FILES = re.compile(
    r"(?m)^\s*(-r|-c|-f|-e|--requirement|--constraint|--find-links|--editable|\.|/|.*@\s*file:)"
)

SCRIPT = """
set -e
cd "$3"
if "$1" -c 'import pip; raise SystemExit(int(pip.__version__.split(".")[0]) < 23)' 2>/dev/null; then
    "$1" -m venv --clear --without-pip "$2"
    set -- "$1" "$4" "$1" -m pip --python "$2/bin/python"
else
    "$1" -m venv --clear "$2"
    set -- "$1" "$4" "$2/bin/python" -m pip
fi
requirements=$2
shift 2
exec "$@" install --no-input --disable-pip-version-check --no-cache-dir -q -r "$requirements"
"""
"""An interpreter's own pip installs into an environment without one: that spares the four seconds of unpacking pip."""


@dataclass(slots=True)
class Dependencies:
    """Makes environments, one at a time each.

    Args:
        folder: Where they are kept.
        runtime: Runs the installation, like a replica.
        sandbox: The same as the apps'.
    """

    folder: Path
    runtime: Runtime
    sandbox: Sandbox
    _locks: dict[str, trio.Lock] = field(default_factory=dict)

    async def ensure(self, plan: ReplicaPlan, replica: ReplicaFolder, log: Path) -> Path:
        """The environment for this replica's requirements, made if need be; pip's words go to the replica's log.

        Raises:
            FailedError: pip failed, or took too long.
        """
        text = await trio.to_thread.run_sync(replica.requirements.read_bytes)
        key = venv_key(text, plan.bundle, str(self.sandbox.interpreter.path))
        venv = self.folder / key
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                if not await trio.to_thread.run_sync((venv / MARK).exists):
                    await self._make(plan, replica, venv, log)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(key, None)
        return venv

    async def _make(self, plan: ReplicaPlan, replica: ReplicaFolder, venv: Path, log: Path) -> None:
        owner = self.sandbox.owner_of(plan.replica_id)
        run_folder = replica.installation
        await self.runtime.abandon(run_folder)
        await trio.to_thread.run_sync(_ready, venv, run_folder, owner)
        requirements = replica.work / plan.install
        python = str(self.sandbox.interpreter.path)
        launch = Launch(
            replica_id=plan.replica_id,
            run_id=secrets.token_hex(8),
            group=f"{plan.replica_id}-install",
            command=("/bin/sh", "-c", SCRIPT, "sh", python, str(venv), str(replica.work), str(requirements)),
            environment={
                "PATH": f"{replica.programs}:/usr/local/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "HOME": str(replica.work),
                "TMPDIR": str(replica.tmp),
            },
            work=replica.work,
            run_folder=run_folder,
            log=log,
            readable=(replica.programs,),
            writable=(venv, replica.tmp),
            secrets_folder=None,
            limits=ResourceLimits(
                cpu=1.0,
                memory_bytes=max(plan.memory_bytes, INSTALL_MEMORY_BYTES_MIN),
                disk_bytes=max(plan.disk_bytes, VENV_BYTES_MAX),
            ),
            exclusive=False,
            renewal_limit_s=RENEWAL_LIMIT_S,
            entitled=boottime(),
        )
        run = await self.runtime.start(launch, deadline=trio.current_time() + 20)
        ended = await _see_through(run)
        if ended.code != 0:
            raise FailedError("dependencies could not be installed", why=str(ended), hint="see the app's logs")
        await trio.to_thread.run_sync(_finish, venv)


async def _see_through(run: Run) -> RunExit:
    """Wait for the installation; it ends with whoever waits, unlike an app."""
    try:
        async with trio.open_nursery() as nursery:

            async def renew() -> None:
                while True:
                    if not await run.renew(boottime()):
                        return
                    await trio.sleep(RENEW_EVERY_S)

            nursery.start_soon(renew)
            with trio.move_on_after(INSTALL_S_MAX):
                ended = await run.wait_exit()
                nursery.cancel_scope.cancel()
                return ended
    finally:
        if run.facts.exit is None:
            with trio.CancelScope(shield=True):
                await run.stop(0.0)
    raise FailedError("dependencies could not be installed", why=f"not done within {INSTALL_S_MAX:g} s")


def venv_key(requirements: bytes, bundle: str, interpreter: str) -> str:
    """The name of the environment for these requirements."""
    refers = _REFERS_TO_FILES.search(requirements.decode(errors="replace")) is not None
    parts = [requirements, interpreter.encode(), bundle.encode() if refers else b""]
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def prune_venvs(folder: Path, kept: int = VENVS_KEPT) -> None:
    """Remove all but the newest environments; whoever uses one touches it. Called before any replica starts."""
    found = sorted(folder.iterdir(), key=lambda entry: entry.lstat().st_mtime, reverse=True) if folder.exists() else []
    for entry in found[kept:]:
        shutil.rmtree(entry, ignore_errors=True)


def _ready(venv: Path, run_folder: Path, owner: int | None) -> None:
    shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(parents=True)
    venv.chmod(0o755)
    shutil.rmtree(run_folder, ignore_errors=True)
    run_folder.mkdir(mode=0o700)
    if owner is not None:
        os.chown(venv, owner, owner)
        venv.parent.chmod(0o711)


def _finish(venv: Path) -> None:
    """Nobody's any more but the daemon's: what one app installed, no app may change under another."""
    uid, gid = os.getuid(), os.getgid()
    if venv.lstat().st_uid != uid:
        for place, folders, files in os.walk(venv):
            for name in (*folders, *files):
                os.chown(Path(place) / name, uid, gid, follow_symlinks=False)
        os.chown(venv, uid, gid)
    (venv / MARK).touch()
