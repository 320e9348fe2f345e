"""A rung of the ladder as this machine has it, and launches made ready for it."""

from __future__ import annotations

import atexit
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.runtimes.cgroups import find_control_groups
from scheduler.runtimes.sandbox import Rung, Sandbox
from scheduler.runtimes.sandbox_probe import probe_rung
from tests.unit.scheduler_runtime.launching import MOUTH

GROUPS = find_control_groups(f"test-{os.getpid()}")
atexit.register(GROUPS.release)


async def rung(which: Rung, home: Path) -> Sandbox:
    sandbox, why = await probe_rung(which, home / "apps", seed="test", groups=GROUPS)
    if sandbox is None:
        pytest.skip(f"no {which.value} on this machine: {why}")
    return sandbox


def give(sandbox: Sandbox, launch: Any, replica_id: str, *arguments: str) -> Any:
    """The launch on this rung: its interpreter, and its folder belonging to the replica's user."""
    owner = sandbox.owner_of(replica_id)
    tmp = launch.work.parent / "tmp"
    tmp.mkdir(exist_ok=True)
    launch.work.chmod(0o700)
    if owner is not None:
        launch.work.parent.chmod(0o711)
        for place in (launch.work, tmp):
            os.chown(place, owner, owner)
    for place in (launch.work, launch.work / MOUTH):
        if owner is not None and place.exists():
            os.chown(place, owner, owner)
    _, *rest = launch.command
    return replace(
        launch,
        replica_id=replica_id,
        command=(str(sandbox.interpreter.path), *rest, *arguments),
        writable=() if sandbox.private_tmp() else (tmp,),
        environment={
            **launch.environment,
            "TMPDIR": "/tmp" if sandbox.private_tmp() else str(tmp),
        },
    )
