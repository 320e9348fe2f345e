"""One replica's life on this node, from its assignment to its end.

    fetch → unpack → install → ┌ port, secrets → start → probe … ┐ → back-off ┐
                               └────────────────────────────────────────────┘
Ways out: `retire` (the ledger took it away: graceful stop, folder removed), and cancellation (the daemon goes: the
app stays under its shim and is adopted by the next daemon). Which of both it is decides what happens to the process,
so a replica that is merely cancelled touches nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import trio

from gossip.record import ReplicaHealth, ReplicaReport
from mesh.errors import FreecloudError, UnavailableError
from scheduler import health, ports, replica_files
from scheduler.backoff import Backoff
from scheduler.disk_watch import LOOK_EVERY_S, DiskWatch
from scheduler.health_gate import HealthGate
from scheduler.replica_files import ReplicaFolder
from scheduler.runtimes.messages import ReplicaPlan, ReplicaRecord
from scheduler.runtimes.procfs import boottime
from scheduler.runtimes.runtime import EXCLUSIVE_RENEW_EVERY_S, RENEW_EVERY_S, RENEWAL_LIMIT_S, Run, RunExit
from scheduler.surroundings import Surroundings, dependencies_of, make_launch

T = TypeVar("T")

FETCH_S_MAX = 300.0
START_S_MAX = 20.0

STOP_GRACE_S = 10.0
"""Between SIGTERM and SIGKILL; Docker and systemd give 10 and 90."""

EXCLUSIVE_GRACE_S = 3.0
"""The same for an exclusive replica: by the time that the leader places it elsewhere it must be dead for sure."""

LEAVE_S = 1.0
"""Between saying "stopping" and SIGTERM: by then other nodes' ingress has heard it and sends nothing new. Gossip
needs a few hundred milliseconds; whoever missed it is refused at the tunnel before a byte went, and tries another."""

IDLE_S_MAX = 10.0
"""How long requests that were begun may hold up a graceful end; a WebSocket or a long download would for ever."""

DETAIL_CHARACTERS_MAX = 120


class Replica:
    """One replica. `run` is its life; everything else may be called at any time from the trio thread.

    Args:
        plan: What to run.
        around: The node's shared parts.
        record: What an earlier daemon left of it; None for a new one.
        on_change: Called after every change of `report`.
    """

    def __init__(
        self, plan: ReplicaPlan, around: Surroundings, *, record: ReplicaRecord | None, on_change: Callable[[], None]
    ) -> None:
        self.plan = plan
        self._around = around
        self._record = record
        self._on_change = on_change
        self._folder = ReplicaFolder(around.folders.apps / plan.replica_id)
        self._backoff = Backoff(plan.restart, restarts=record.restarts if record else 0, rng=around.rng)
        self._health = ReplicaHealth.STARTING
        self._detail = "preparing"
        self._port = 0
        self._run: Run | None = None
        self._healthy_since: float | None = None
        self._ended_by = ""  # why the last run ended: told until another is healthy
        self._life = trio.CancelScope()
        self._retire_reason: str | None = None
        self._serving = False  # when it was retired
        self._door_open = True
        self._leave_s, self._idle_s = LEAVE_S, IDLE_S_MAX
        self._flooded = False  # its folders have to be emptied before the next start

    @property
    def report(self) -> ReplicaReport:
        return ReplicaReport(
            replica_id=self.plan.replica_id,
            app=self.plan.app,
            release=self.plan.release,
            assignment_index=self.plan.assignment_index,
            health=self._health,
            port=self._port,
            restarts=self._backoff.restarts,
            detail=self._detail[:DETAIL_CHARACTERS_MAX],
        )

    @property
    def retiring(self) -> bool:
        return self._retire_reason is not None

    @property
    def port(self) -> int:
        """Where it listens on loopback; 0 when it does not run. Still set while it is stopping gracefully."""
        return self._port

    @property
    def takes_connections(self) -> bool:
        """Not any more once it only finishes what was begun: whoever still asks is refused, and asks another."""
        return self._port != 0 and self._door_open

    @property
    def folder(self) -> ReplicaFolder:
        return self._folder

    async def run_beside(self, command: tuple[str, ...], run_folder: Path, log: Path) -> Run:
        """Start a command as this replica: its folder, packages, secrets and sandbox, but limits of its own.

        Raises:
            UnavailableError: The replica has not been unpacked yet, or is on its way out.
        """
        if self.retiring or not self._folder.work.exists():
            raise UnavailableError(f"{self.plan.replica_id} is not ready", why=self._detail)
        plan, around = self.plan, self._around
        venv = await dependencies_of(plan, around, self._folder)
        values = await around.open_secrets(plan.secrets) if plan.secrets else {}
        own = await make_launch(
            plan,
            around,
            self._folder,
            run_id=secrets.token_hex(8),
            port=self._port,
            venv=venv,
            secret_values=values,
            entitled=boottime(),
        )
        launch = replace(
            own,
            group=f"{plan.replica_id}-{run_folder.name}",
            command=command,
            run_folder=run_folder,
            log=log,
            exclusive=False,
            renewal_limit_s=RENEWAL_LIMIT_S,
        )
        return await around.runtime.start(launch, deadline=trio.current_time() + START_S_MAX)

    def retire(self, reason: str, *, leave_s: float = LEAVE_S, idle_s: float = IDLE_S_MAX) -> None:
        """End it for good: gracefully, and its folder goes. `run` returns when that is done.

        Args:
            reason: For people.
            leave_s: How long it serves on, so that everybody hears of it first.
            idle_s: How long what was begun may then take to finish.
        """
        if self._retire_reason is None:
            self._retire_reason = reason
            self._leave_s, self._idle_s = leave_s, idle_s
            self._serving = self._health is ReplicaHealth.HEALTHY
            self._tell(ReplicaHealth.STOPPING, reason)
            self._life.cancel()

    async def run(self) -> None:
        """Live until retired (returns) or cancelled (leaves the app running)."""
        with self._life:
            await self._live()
        if self._retire_reason is not None:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _live(self) -> None:
        run = await self._adopt()
        if run is None:
            await self._insist(self._prepare)
        while True:
            if run is None:
                run = await self._insist(self._start)
            why = await self._attend(run)
            run = None
            self._run, self._port = None, 0
            await self._wait_before_restart(why)
            if self._flooded:
                self._flooded = False
                await trio.to_thread.run_sync(replica_files.empty, self._folder)
                await self._insist(self._prepare)

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step that may fail, at growing intervals, saying why."""
        while True:
            try:
                return await step()
            except (FreecloudError, OSError) as error:  # OSError: a full or failing disk, which may get better
                self._port = 0
                await self._wait_before_restart(str(error))

    async def _adopt(self) -> Run | None:
        """The run that an earlier daemon started, if it still lives; nothing of it is left if it does not."""
        if self._record is None or not self._record.run_id:
            return None
        entitled = self._around.entitled() if self.plan.exclusive else boottime()
        deadline = trio.current_time() + START_S_MAX
        run = await self._around.runtime.adopt(
            self._folder.run, self._record.run_id, entitled=entitled, deadline=deadline
        )
        if run is not None:
            self._run, self._port = run, self._record.port
            self._tell(ReplicaHealth.STARTING, "adopted")
        return run

    async def _prepare(self) -> None:
        """Everything that is done once: folder, source, packages."""
        plan, around = self.plan, self._around
        self._tell(ReplicaHealth.STARTING, "preparing")
        await trio.to_thread.run_sync(replica_files.make_folder, self._folder, around.sandbox, plan.replica_id)
        self._record = ReplicaRecord(plan, run_id="", port=0, restarts=self._backoff.restarts)
        await trio.to_thread.run_sync(replica_files.write_record, self._folder, self._record)
        if await trio.to_thread.run_sync(replica_files.clear_unfinished, self._folder):
            self._tell(ReplicaHealth.STARTING, "fetching its source")
            deadline = trio.current_time() + FETCH_S_MAX
            await around.bundles.unpack(plan.bundle, self._folder.unpacking, deadline=deadline)
            await trio.to_thread.run_sync(replica_files.finish_unpacking, self._folder, around.sandbox, plan)

    async def _start(self) -> Run:
        """One run: fresh port, a record of it on disk, and then the process."""
        plan, around, folder = self.plan, self._around, self._folder
        await trio.to_thread.run_sync(replica_files.make_folder, folder, around.sandbox, plan.replica_id)
        if plan.install:
            self._tell(ReplicaHealth.STARTING, "installing dependencies")
        venv = await dependencies_of(plan, around, folder)
        self._tell(ReplicaHealth.STARTING, "starting")
        entitled = await around.confirm() if plan.exclusive else boottime()
        values = await around.open_secrets(plan.secrets) if plan.secrets else {}
        port = ports.free_port(around.rng)
        run_id = secrets.token_hex(8)
        # From here on there may be a process: a retirement waits these few milliseconds, so that it finds it.
        with trio.CancelScope(shield=True):
            self._record = ReplicaRecord(plan, run_id=run_id, port=port, restarts=self._backoff.restarts)
            await trio.to_thread.run_sync(replica_files.write_record, folder, self._record)
            launch = await make_launch(
                plan, around, folder, run_id=run_id, port=port, venv=venv, secret_values=values, entitled=entitled
            )
            run = await around.runtime.start(launch, deadline=trio.current_time() + START_S_MAX)
            self._run, self._port = run, port
        self._tell(ReplicaHealth.STARTING, "started")
        return run

    async def _attend(self, run: Run) -> str:
        """Probe and renew until the run ends or has to be ended; returns why it did."""
        why: list[str] = []
        self._healthy_since = None

        async with trio.open_nursery() as nursery:

            async def wait_exit() -> None:
                why.append(str(await run.wait_exit()))
                nursery.cancel_scope.cancel()

            async def probe() -> None:
                why.append(await self._probe_until_hopeless())
                nursery.cancel_scope.cancel()

            async def watch_disk() -> None:
                why.append(await self._watch_disk())
                self._flooded = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_exit)
            nursery.start_soon(probe)
            nursery.start_soon(watch_disk)
            nursery.start_soon(self._renew, run)
        if run.facts.exit is None:
            self._tell(ReplicaHealth.UNHEALTHY, f"restarting: {why[0]}")
            await run.stop(STOP_GRACE_S)
        return why[0]

    async def _probe_until_hopeless(self) -> str:
        gate = HealthGate(self.plan.health, trio.current_time())
        check = self.plan.health
        while True:
            await trio.sleep_until(gate.next_probe())
            failure = await health.probe(self._port, check.path, check.timeout_s)
            now = trio.current_time()
            if gate.record(now, failure):
                if self._healthy_since is None:
                    self._healthy_since = now
                self._tell(gate.health, gate.reason)
            elif gate.health is ReplicaHealth.STARTING and not self._detail.startswith(gate.reason):
                self._tell(gate.health, gate.reason)  # why it is not healthy yet, for whoever waits for it
            hopeless = gate.hopeless(now)
            if hopeless is not None:
                return hopeless

    async def _watch_disk(self) -> str:
        watch = DiskWatch((self._folder.work, self._folder.tmp), self.plan.disk_bytes)
        while True:
            await trio.sleep(LOOK_EVERY_S)
            try:
                wrong = await trio.to_thread.run_sync(watch.look)
            except OSError:
                continue  # the app removed its own folder: that is its problem
            if wrong is not None:
                return wrong

    async def _renew(self, run: Run) -> None:
        """Keep the shim's lease. That the run has ended is told by `wait_exit`, not here."""
        while True:
            if self.plan.exclusive:
                await run.renew(self._around.entitled())
                await trio.sleep(EXCLUSIVE_RENEW_EVERY_S)
            else:
                await run.renew(boottime())
                await trio.sleep(RENEW_EVERY_S)

    async def _wait_before_restart(self, why: str) -> None:
        healthy_s = trio.current_time() - self._healthy_since if self._healthy_since is not None else 0.0
        self._healthy_since = None
        self._ended_by = why
        wait_s = self._backoff.failed(healthy_s)
        if wait_s is None:
            self._tell(ReplicaHealth.FAILED, f"given up: {why}")
            await trio.sleep_forever()
        else:
            again = f"; starts again in {wait_s:.0f} s"
            self._tell(ReplicaHealth.BACKING_OFF, why[: DETAIL_CHARACTERS_MAX - len(again)] + again)
            await trio.sleep(wait_s)

    async def _end(self) -> RunExit | None:
        """The graceful end of a retired replica, and of whatever run an earlier daemon left of it."""
        run, ended = self._run, None
        if run is None and self._record is not None and self._record.run_id:
            run = await self._adopt()
            self._tell(ReplicaHealth.STOPPING, self._retire_reason or "")
        if run is not None:
            if self._serving and not self.plan.exclusive:
                await self._leave(run)
            ended = await run.stop(EXCLUSIVE_GRACE_S if self.plan.exclusive else STOP_GRACE_S)
        self._run, self._port = None, 0
        await self._around.runtime.abandon(self._folder.installation)
        await trio.to_thread.run_sync(replica_files.remove_folder, self._folder)
        return ended

    async def _leave(self, run: Run) -> None:
        """Serve on until everybody has heard of the leaving and what was begun is finished; many apps do neither on
        SIGTERM. An exclusive replica doesn't wait: its successor does."""
        with trio.move_on_after(self._leave_s):
            await run.wait_exit()
        self._door_open = False
        with trio.move_on_after(self._idle_s):
            await self._around.wait_idle(self.plan.replica_id)

    def _tell(self, health_now: ReplicaHealth, detail: str) -> None:
        if self._retire_reason is not None and health_now is not ReplicaHealth.STOPPING:
            return
        if health_now is ReplicaHealth.HEALTHY:
            self._ended_by = ""
        if health_now is ReplicaHealth.STARTING and self._ended_by:
            detail += f"; before: {self._ended_by}"
        self._health, self._detail = health_now, detail
        self._on_change()
