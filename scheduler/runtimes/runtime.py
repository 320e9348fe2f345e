"""The seam between a replica and what runs it: a process here, later a container or another scheduler (rule A5).

A `Runtime` starts a *run*: one life of one command, from start to exit. It never restarts anything: back-off, health
and giving up belong to `scheduler/replica.py`. A run outlives the daemon that started it and is found again by
`adopt`. What a runtime must never know: the ledger, gossip, and where else the app runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

RENEWAL_LIMIT_S, RENEW_EVERY_S = 60.0, 10.0
EXCLUSIVE_LIMIT_S, EXCLUSIVE_RENEW_EVERY_S = 8.0, 1.0
"""How long a run goes on without a daemon, and how often that one shows itself (rules A1, A2). The leader waits 15 s
before it places an exclusive replica elsewhere."""

PIDS_MAX = 512
DESCRIPTORS_MAX = 1024


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What one replica may use; a runtime enforces what its platform can, and `Runtime.enforced` says what that is."""

    cpu: float  # cores
    memory_bytes: int
    disk_bytes: int
    pids: int = PIDS_MAX
    descriptors: int = DESCRIPTORS_MAX


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that a runtime needs for one run."""

    replica_id: str
    run_id: str  # random; names this run in its folder and on its control socket
    group: str  # name of its control groups: everything in them ends with this run
    command: tuple[str, ...]
    environment: Mapping[str, str]  # of the app, secrets included: goes to no disk
    work: Path  # the app's own folder: its current directory, writable
    run_folder: Path  # the run's record and control socket; exists, 0700
    log: Path  # its folder exists
    readable: tuple[Path, ...]  # what else the app may read (its installed packages)
    writable: tuple[Path, ...]  # what else it may write (a folder for temporary files)
    secrets_folder: Path | None  # in memory; removed when the run ends
    limits: ResourceLimits
    exclusive: bool
    renewal_limit_s: float  # the run ends itself when nobody renewed it for so long
    entitled: float  # CLOCK_BOOTTIME at which the replica was last known to belong here


@dataclass(frozen=True, slots=True)
class RunExit:
    """How a run ended."""

    code: int | None  # exit status, or
    signal: int | None  # the signal that killed it; neither: nobody saw it end
    at_ms: int
    reason: str  # "exited", "stopped", "no daemon for 60 s", …

    def __str__(self) -> str:
        because = "" if self.reason in ("exited", "stopped") else f" ({self.reason})"
        if self.signal is not None:
            return f"killed by signal {self.signal}{because}"
        if self.code is not None:
            return f"exit status {self.code}{because}"
        return self.reason


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run, by its shim's word or by the record that the shim left."""

    run_id: str
    shim_pid: int
    shim_start: int
    pid: int
    start_time: int  # clock ticks after boot: with the pid it names one process for ever, within one boot
    group: int
    started_ms: int
    boot_id: str
    exit: RunExit | None
    cgroups: tuple[str, ...] = ()


class Run(Protocol):
    """One run, seen from the daemon. Forgetting the object never ends the run."""

    @property
    def facts(self) -> RunFacts:
        """As last heard."""

    async def renew(self, entitled: float) -> bool:
        """Tell the run that it still belongs here.

        Args:
            entitled: CLOCK_BOOTTIME at which that was last known, which may be a while ago.

        Returns:
            False when the run is ending or has ended.
        """

    async def wait_exit(self) -> RunExit:
        """Wait until the run has ended and nothing of it is left."""

    async def stop(self, grace_s: float) -> RunExit:
        """SIGTERM, and SIGKILL after `grace_s`; returns when nothing of it is left. Safe to repeat and to cancel."""


class Runtime(Protocol):
    """Starts runs, and finds those that an earlier daemon started."""

    async def start(self, launch: Launch, *, deadline: float) -> Run:
        """Start one run.

        Raises:
            FailedError: It could not be started; nothing is left of it.
        """

    async def adopt(self, run_folder: Path, run_id: str, *, entitled: float, deadline: float) -> Run | None:
        """Find a run that an earlier daemon started.

        Args:
            run_folder, run_id: What its `Launch` said.
            entitled: As in `Run.renew`.

        Returns:
            The run in this folder if it still runs; None when it ended or was lost, and nothing of it is left.
        """

    async def abandon(self, run_folder: Path) -> None:
        """Make sure that nothing lives of whatever run this folder had last; there need not have been one."""
