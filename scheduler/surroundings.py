"""What a node gives to its replicas, and how a run of one is put together from it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from scheduler import replica_files
from scheduler.dependencies import Dependencies
from scheduler.replica_files import ReplicaFolder, RunnerFolders
from scheduler.runtimes.command import shell_command
from scheduler.runtimes.logs import log_path
from scheduler.runtimes.messages import ReplicaPlan
from scheduler.runtimes.runtime import (
    EXCLUSIVE_LIMIT_S,
    RENEWAL_LIMIT_S,
    Launch,
    ResourceLimits,
    Runtime,
)
from scheduler.runtimes.sandbox import Sandbox


class Bundles(Protocol):
    """What a replica needs of `scheduler.bundles.BundleExchange`."""

    async def unpack(self, bundle: str, folder: Path, *, deadline: float) -> None:
        """The source of this name into `folder`, which is made, fetched from a holder if need be."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all replicas of a node share."""

    runtime: Runtime
    sandbox: Sandbox
    folders: RunnerFolders
    bundles: Bundles
    dependencies: Dependencies
    open_secrets: Callable[[tuple[str, ...]], Awaitable[Mapping[str, str]]]
    entitled: Callable[[], float]  # boottime at which the leader was last heard
    confirm: Callable[[], Awaitable[float]]  # the same, by asking now; raises when it cannot be known
    wait_idle: Callable[[str], Awaitable[None]]  # until no request is in flight to this replica
    node: Mapping[str, str]  # FREECLOUD_NODE, FREECLOUD_ZONE
    rng: random.Random


async def dependencies_of(plan: ReplicaPlan, around: Surroundings, folder: ReplicaFolder) -> Path | None:
    """The replica's environment of packages, made if need be; None when it asks for none."""
    if not plan.install:
        return None
    return await around.dependencies.ensure(plan, folder, log_path(around.folders.logs, plan.app, plan.replica_id))


async def make_launch(
    plan: ReplicaPlan,
    around: Surroundings,
    folder: ReplicaFolder,
    *,
    run_id: str,
    port: int,
    venv: Path | None,
    secret_values: Mapping[str, str],
    entitled: float,
) -> Launch:
    """The launch of this replica's own command. Its secrets are written here, and removed by the run at its end."""
    owner = around.sandbox.owner_of(plan.replica_id)
    secrets_folder = await trio.to_thread.run_sync(replica_files.write_secrets, secret_values, owner)
    private_tmp = around.sandbox.private_tmp()
    return Launch(
        replica_id=plan.replica_id,
        run_id=run_id,
        group=plan.replica_id,
        command=shell_command(plan.command),
        environment=replica_files.environment_of(
            plan,
            folder,
            port=port,
            venv=venv,
            secret_values=secret_values,
            secrets_folder=secrets_folder,
            private_tmp=private_tmp,
            node=around.node,
        ),
        work=folder.work,
        run_folder=folder.run,
        log=log_path(around.folders.logs, plan.app, plan.replica_id),
        readable=(folder.programs, *([venv] if venv is not None else [])),
        writable=() if private_tmp else (folder.tmp,),
        secrets_folder=secrets_folder,
        limits=ResourceLimits(plan.cpu, plan.memory_bytes, plan.disk_bytes),
        exclusive=plan.exclusive,
        renewal_limit_s=EXCLUSIVE_LIMIT_S if plan.exclusive else RENEWAL_LIMIT_S,
        entitled=entitled,
    )
