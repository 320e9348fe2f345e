"""What the ledger assigns to this node, runs here; nothing else does, and nothing runs twice.

The runner compares and carries out; what is compared to what is `local_plan.decide`. It never asks the ledger for
leave to go on: without a quorum everything runs as it ran, but for exclusive replicas, whose shims end them when the
leader was not heard for 8 s (`entitlement.py`).

Cancelling `run` leaves every app running under its shim; the next daemon finds them by their folders.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trio

from consensus.ledger_state import LedgerState
from consensus.records import Assignment
from gossip.record import ReplicaReport
from mesh.errors import FreecloudError
from mesh.names import NodeId
from scheduler import replica_files
from scheduler.dependencies import Dependencies, prune_venvs
from scheduler.entitlement import Entitlement
from scheduler.local_plan import Running, assigned_to, decide
from scheduler.manifest import decode_manifest
from scheduler.replica import Replica
from scheduler.replica_files import ReplicaFolder, RunnerFolders
from scheduler.replica_plan import plan_of
from scheduler.runtimes.logs import prune_logs
from scheduler.runtimes.messages import ReplicaPlan, ReplicaRecord
from scheduler.runtimes.procfs import boottime
from scheduler.runtimes.runtime import Runtime
from scheduler.runtimes.sandbox import Sandbox
from scheduler.surroundings import Bundles, Surroundings

TICK_S = 1.0
BARRIER_S_MAX = 5.0
PRUNE_EVERY_S = 3600.0
STOP_IDLE_S = 2.0


class Ledger(Protocol):
    """What the runner needs of `consensus.ledger.Ledger`."""

    @property
    def state(self) -> LedgerState: ...

    def watch(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Any]]: ...

    def age(self) -> float: ...

    async def read_barrier(self, *, deadline: float) -> int: ...


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    node_id: NodeId
    node_name: str
    zone: str


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    replicas: int
    retiring: int
    started: int  # lives begun since this daemon started, adopted ones included
    refused: tuple[tuple[str, str], ...]  # replicas that cannot even be planned, and why


class Runner:
    """Keeps what runs here equal to what is assigned here.

    Args:
        config: Who this node is.
        ledger: This node's copy.
        bundles: Where sources come from.
        runtime: What runs them.
        sandbox: The rung that `runtime` uses.
        folders: Where their files are.
        open_secrets: The plaintext of named app secrets.
        wait_idle: Waits until no request that this node relays is in flight to a replica.
        on_change: Called after every change of `reports()`; must be quick.
        rng: Ports and jitter.
    """

    def __init__(
        self,
        config: RunnerConfig,
        *,
        ledger: Ledger,
        bundles: Bundles,
        runtime: Runtime,
        sandbox: Sandbox,
        folders: RunnerFolders,
        open_secrets: Callable[[tuple[str, ...]], Awaitable[Mapping[str, str]]],
        on_change: Callable[[], None],
        rng: random.Random,
        wait_idle: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._folders = folders
        self._sandbox = sandbox
        self._on_change = on_change
        self._entitlement = Entitlement()
        self._replicas: dict[str, Replica] = {}
        self._refused: dict[str, str] = {}
        self._gone = trio.Event()  # set whenever a replica's life has ended
        self._stopping: str | None = None
        self._started = 0
        self._around = Surroundings(
            runtime=runtime,
            sandbox=sandbox,
            folders=folders,
            bundles=bundles,
            dependencies=Dependencies(folders.venvs, runtime, sandbox),
            open_secrets=open_secrets,
            entitled=self._entitlement.since,
            confirm=self._confirm,
            wait_idle=wait_idle or _at_once,
            node={"FREECLOUD_NODE": config.node_name, "FREECLOUD_ZONE": config.zone},
            rng=rng,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopt, then follow the ledger until cancelled."""
        records = await trio.to_thread.run_sync(self._look_around)
        async with trio.open_nursery() as nursery, self._ledger.watch() as changes:
            for replica_id, record in records.items():
                if record is not None:
                    self._begin(nursery, record.plan, record)
                else:
                    await self._forget(replica_id)
            nursery.start_soon(self._follow_leader)
            nursery.start_soon(self._prune)
            task_status.started()
            while True:
                self._compare(nursery)
                await self._wait(changes)

    def reports(self) -> tuple[ReplicaReport, ...]:
        """What runs here and how it is, for this node's gossip record."""
        return tuple(replica.report for _, replica in sorted(self._replicas.items()))

    def replica(self, replica_id: str) -> Replica | None:
        """A replica of this node, for whoever shows it or reaches it."""
        return self._replicas.get(replica_id)

    def local_port(self, replica_id: str, assignment_index: int) -> int | None:
        """Where to connect to this replica on loopback; None when it is not here, by this very assignment, or takes
        nothing new any more."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.plan.assignment_index != assignment_index or not replica.takes_connections:
            return None
        return replica.port

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(
            replicas=len(self._replicas),
            retiring=sum(replica.retiring for replica in self._replicas.values()),
            started=self._started,
            refused=tuple(sorted(self._refused.items())),
        )

    async def stop_all(self, *, deadline: float) -> None:
        """End every replica of this node, gracefully, and start none: `down`. Their assignments stay in the ledger."""
        self._stopping = "this node goes down"
        for replica in self._replicas.values():
            # Whoever drains a node has done so before; what is still in flight is short, or is not waited for.
            replica.retire(self._stopping, leave_s=0.0, idle_s=STOP_IDLE_S)
        with trio.move_on_at(deadline):
            while self._replicas:
                await self._gone.wait()

    def _compare(self, nursery: trio.Nursery) -> None:
        """One round: what should be against what is."""
        state = self._ledger.state
        assigned = assigned_to(self._config.node_id, state.assignments.values())
        if self._config.node_id in state.outs:
            # The leader has given this node up and counts 15 s from that mark, whatever happens here.
            assigned = {name: each for name, each in assigned.items() if not self._is_exclusive(each)}
        running = {
            replica_id: Running(replica_id, replica.plan.assignment_index, replica.retiring)
            for replica_id, replica in self._replicas.items()
        }
        plan = decide(assigned, running, state.applied)
        for replica_id in plan.stop:
            self._replicas[replica_id].retire("no longer assigned to this node")
        self._refused.clear()
        for assignment in () if self._stopping else plan.start:
            release = state.releases.get((assignment.app, assignment.release))
            try:
                if release is None:
                    self._refused[assignment.replica_id] = f"the ledger has no release {assignment.release} of it"
                else:
                    self._begin(nursery, plan_of(assignment, release), None)
            except FreecloudError as error:
                self._refused[assignment.replica_id] = str(error)

    def _is_exclusive(self, assignment: Assignment) -> bool:
        replica = self._replicas.get(assignment.replica_id)
        if replica is not None:
            return replica.plan.exclusive
        release = self._ledger.state.releases.get((assignment.app, assignment.release))
        return release is not None and decode_manifest(release.manifest).exclusive

    def _begin(self, nursery: trio.Nursery, plan: ReplicaPlan, record: ReplicaRecord | None) -> None:
        replica = Replica(plan, self._around, record=record, on_change=self._on_change)
        self._replicas[plan.replica_id] = replica
        self._started += 1
        nursery.start_soon(self._live, replica)
        self._on_change()

    async def _live(self, replica: Replica) -> None:
        await replica.run()
        del self._replicas[replica.plan.replica_id]
        self._gone.set()
        self._gone = trio.Event()
        self._on_change()

    async def _wait(self, changes: trio.MemoryReceiveChannel[Any]) -> None:
        """Until the ledger changed, or a replica's end made room for its successor."""
        async with trio.open_nursery() as nursery:

            async def until_gone() -> None:
                await self._gone.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_gone)
            await changes.receive()
            nursery.cancel_scope.cancel()

    async def _follow_leader(self) -> None:
        while True:
            self._entitlement.tick(
                monotonic=trio.current_time(), boottime=boottime(), ledger_age_s=self._ledger.age()
            )
            await trio.sleep(TICK_S)

    async def _confirm(self) -> float:
        """Ask the leader, now: an exclusive replica starts only on its word (rule A1)."""
        asked_at = boottime()
        await self._ledger.read_barrier(deadline=trio.current_time() + BARRIER_S_MAX)
        self._entitlement.confirm(asked_at)
        return asked_at

    async def _prune(self) -> None:
        while True:
            living = frozenset(self._replicas)
            await trio.to_thread.run_sync(prune_logs, self._folders.logs, living, time.time())
            await trio.sleep(PRUNE_EVERY_S)

    def _look_around(self) -> dict[str, ReplicaRecord | None]:
        """What an earlier daemon left; the folders are made traversable where apps have uids of their own."""
        for folder in (self._folders.apps, self._folders.logs, self._folders.venvs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._sandbox.owner_of("") is not None:
            self._folders.apps.chmod(0o711)
        prune_venvs(self._folders.venvs)
        return replica_files.read_records(self._folders)

    async def _forget(self, replica_id: str) -> None:
        """A folder without a readable record: never started, or damaged; what runs in it has the run's own record."""
        folder = ReplicaFolder(self._folders.apps / replica_id)
        await self._around.runtime.abandon(folder.run)
        await self._around.runtime.abandon(folder.installation)
        await trio.to_thread.run_sync(replica_files.remove_folder, folder)


async def _at_once(replica_id: str) -> None:
    """Nothing is ever in flight where nothing is relayed."""
    await trio.lowlevel.checkpoint()


def folders_under(home: Path) -> RunnerFolders:
    """The usual places in a node's home."""
    return RunnerFolders(apps=home / "apps", logs=home / "logs", venvs=home / "venvs")
