"""The runtime `process`: a command on this machine, under a shim, within a sandbox (rules A2, A3).

The daemon's side of `shim.py`: starts it, speaks to its control socket, finds it again after a restart, and sweeps up
when a shim itself was killed. A run is named by its folder and id; its processes by pid, start time and boot.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from mesh.errors import FailedError, ProtocolError, UnavailableError
from scheduler.runtimes import confine, procfs, shim
from scheduler.runtimes.cgroups import MEMORY_BYTES_MIN, NO_CONTROL_GROUPS, ControlGroups
from scheduler.runtimes.logs import LOG_BURST_BYTES, LOG_BYTES_PER_S, LOG_FILE_BYTES_MAX, LOG_FILES, LOG_LINE_BYTES_MAX
from scheduler.runtimes.runtime import Launch, RunExit, RunFacts
from scheduler.runtimes.sandbox import Sandbox
from scheduler.runtimes.shim_wire import PROTOCOL_VERSION

RECORD_NAME = "status.json"
SOCKET_NAME = "control.sock"
ANSWER_BYTES_MAX = 16 * 1024
ASK_S_MAX = 5.0
"""A shim answers in a millisecond; a stopped or starved one must not hold up the daemon."""

SOCKET_PATH_MAX = 100
"""A unix socket's path holds 107 bytes; longer ones are reached through a descriptor of their folder."""

STOP_SPARE_S = 10.0
"""Beyond the grace: SIGKILL, the reaping of leftovers (5 s at most) and the shim's last acts."""


class ProcessRuntime:
    """Starts commands under shims.

    Args:
        sandbox: The rung of the ladder that this machine has, probed at start.
        groups: The control groups that this daemon may make.
        python: The interpreter for the shims; the daemon's own.
    """

    def __init__(
        self, sandbox: Sandbox, *, groups: ControlGroups = NO_CONTROL_GROUPS, python: str = sys.executable
    ) -> None:
        self._sandbox = sandbox
        self._groups = groups
        self._python = os.path.realpath(python)

    async def start(self, launch: Launch, *, deadline: float) -> ProcessRun:
        try:
            return await self._start(launch, deadline)
        except FailedError:
            with trio.CancelScope(shield=True):
                await sweep(launch.run_folder, launch.run_id)
            raise

    async def _start(self, launch: Launch, deadline: float) -> ProcessRun:
        spec = await trio.to_thread.run_sync(self._prepare, launch)
        stages = [self._python, "-I", "-S", confine.__file__, json.dumps({"daemonise": True, "umask": 0o077})]
        command = [*stages, self._python, "-I", "-S", shim.__file__, str(launch.run_folder)]
        try:
            with trio.fail_at(deadline):
                done = await trio.run_process(
                    command,
                    stdin=json.dumps(spec).encode(),
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    start_new_session=True,
                    env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                    cwd="/",
                )
        except (OSError, trio.TooSlowError) as error:
            raise FailedError(f"the shim of {launch.replica_id} did not start", why=str(error)) from error
        words = done.stdout.decode(errors="replace").split(maxsplit=1)
        if not words or words[0] != "ready":
            why = (done.stdout + done.stderr)[-400:].decode(errors="replace").strip()
            raise FailedError(f"{launch.replica_id} could not be started", why=why)
        answer = await _ask(launch.run_folder, launch.run_id, {"op": "status"})
        return ProcessRun(launch.run_folder, _facts(answer))

    async def adopt(self, run_folder: Path, run_id: str, *, entitled: float, deadline: float) -> ProcessRun | None:
        with trio.move_on_at(deadline), suppress(OSError, UnavailableError, FailedError):
            answer = await _ask(run_folder, run_id, {"op": "adopt", "entitled": entitled})
            return ProcessRun(run_folder, _facts(answer))
        # Whoever is told None will start another: so nothing of this one may be left (fault P5).
        with trio.CancelScope(shield=True):
            await sweep(run_folder, run_id)
        return None

    async def abandon(self, run_folder: Path) -> None:
        facts = await trio.to_thread.run_sync(read_record, run_folder)
        if facts is not None:
            await sweep(run_folder, facts.run_id)

    def _prepare(self, launch: Launch) -> dict[str, Any]:
        """Ready the run's folder and its log's, and what the shim has to be told.

        What an earlier run left there was seen to be dead by whoever starts the next.
        """
        launch.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (SOCKET_NAME, RECORD_NAME):
            (launch.run_folder / name).unlink(missing_ok=True)
        groups = self._groups.prepare(launch.group, launch.limits)
        return self._spec(launch, groups)

    def _spec(self, launch: Launch, groups: tuple[str, ...]) -> dict[str, Any]:
        return {
            "run": launch.run_id,
            "argv": self._sandbox.wrap(launch, groups),
            "path": os.environ.get("PATH", os.defpath),
            "env": {**launch.environment, "FREECLOUD_RUN": launch.run_id},
            "exclusive": launch.exclusive,
            "renewal_limit_s": launch.renewal_limit_s,
            "entitled": launch.entitled,
            "secrets_folder": str(launch.secrets_folder or ""),
            "cgroups": groups,
            "cores": launch.limits.cpu,
            "memory_bytes": 0 if self._groups.controls("memory") else max(launch.limits.memory_bytes, MEMORY_BYTES_MIN),
            "sockets": self._sandbox.sockets(launch),
            "log": str(launch.log),
            "log_file_bytes_max": LOG_FILE_BYTES_MAX,
            "log_files": LOG_FILES,
            "log_line_bytes_max": LOG_LINE_BYTES_MAX,
            "log_bytes_per_s": LOG_BYTES_PER_S,
            "log_burst_bytes": LOG_BURST_BYTES,
        }


@dataclass(slots=True)
class ProcessRun:
    """One run under a shim; holds no connection, so it may be forgotten at any time."""

    _folder: Path
    _facts: RunFacts

    @property
    def facts(self) -> RunFacts:
        return self._facts

    async def renew(self, entitled: float) -> bool:
        try:
            self._facts = _facts(await _ask(self._folder, self._facts.run_id, {"op": "renew", "entitled": entitled}))
        except (OSError, UnavailableError, FailedError):
            return False
        return True

    async def wait_exit(self) -> RunExit:
        """Returns also when the shim was killed: its app dies with it, and what is left is swept."""
        try:
            async with _connected(self._folder) as lines:
                await lines.send({"op": "watch", "run": self._facts.run_id})
                await lines.receive()
                self._facts = _facts(await lines.receive())
        except (OSError, FailedError):
            pass  # no shim any more: its record tells, or its absence
        if self._facts.exit is None:
            return await sweep(self._folder, self._facts.run_id)
        return self._facts.exit

    async def stop(self, grace_s: float) -> RunExit:
        with suppress(OSError, UnavailableError, FailedError):
            await _ask(self._folder, self._facts.run_id, {"op": "stop", "grace": grace_s})
        with trio.move_on_after(grace_s + STOP_SPARE_S):
            return await self.wait_exit()
        return await sweep(self._folder, self._facts.run_id)


async def sweep(folder: Path, run_id: str) -> RunExit:
    """Make sure that nothing of this run is alive, and say how it ended.

    For a run whose shim doesn't answer: it ended long ago, was killed, hangs, or belongs to an earlier boot.
    """
    facts = await trio.to_thread.run_sync(read_record, folder)
    if facts is None or facts.run_id != run_id:
        facts = None
    if facts is not None and facts.exit is not None:
        return facts.exit
    await trio.to_thread.run_sync(_kill_run, folder, facts, run_id)
    return RunExit(code=None, signal=None, at_ms=0, reason="its shim was lost")


def read_record(folder: Path) -> RunFacts | None:
    """What the shim last wrote of its run; None when there is nothing, or nothing that can be read."""
    try:
        return _facts(json.loads((folder / RECORD_NAME).read_bytes()))
    except (OSError, ValueError, ProtocolError):
        return None


def _kill_run(folder: Path, facts: RunFacts | None, run_id: str) -> None:
    """SIGKILL to the shim first, so that it reports nothing half done, then to all that carry the run's mark.

    A shim that was still starting has left no record: it is known by the folder on its command line.
    """
    pids = procfs.processes_with_arguments(shim.__file__, str(folder))
    if facts is not None and facts.boot_id == procfs.boot_id():
        pairs = ((facts.shim_pid, facts.shim_start), (facts.pid, facts.start_time))
        pids += [pid for pid, start in pairs if procfs.is_running(pid, start)]
    pids += procfs.processes_with(f"FREECLOUD_RUN={run_id}")
    for group in facts.cgroups if facts is not None else ():
        pids += procfs.numbers_in(f"{group}/cgroup.procs")  # this run's alone, whatever else they hide
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _facts(answer: dict[str, Any]) -> RunFacts:
    try:
        ended = answer["exit"]
        return RunFacts(
            run_id=answer["run"],
            shim_pid=int(answer["shim_pid"]),
            shim_start=int(answer["shim_start"]),
            pid=int(answer["pid"]),
            start_time=int(answer["start_time"]),
            group=int(answer["group"]),
            started_ms=int(answer["started_ms"]),
            boot_id=str(answer["boot_id"]),
            cgroups=tuple(map(str, answer.get("cgroups", ()))),
            exit=None
            if ended is None
            else RunExit(ended["code"], ended["signal"], int(ended["at_ms"]), str(ended["reason"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("a shim's answer cannot be read", why=repr(error)) from error


async def _ask(folder: Path, run_id: str, request: dict[str, Any]) -> dict[str, Any]:
    """One question, one answer.

    Raises:
        OSError: There is no shim (any more).
        UnavailableError: It refused; `stable_code` is `shim.` and its word.
        FailedError: It hung up, or didn't answer in time.
    """
    with trio.move_on_after(ASK_S_MAX):
        async with _connected(folder) as lines:
            await lines.send({**request, "run": run_id})
            answer = await lines.receive()
            if answer.get("ok") is not True:
                raise UnavailableError(
                    "the shim refused", why=str(answer.get("why")), code=f"shim.{answer.get('code')}"
                )
            return answer
    raise FailedError("the shim does not answer", why=f"waited {ASK_S_MAX:g} s")


class _Lines:
    """JSON objects, one a line, over the control socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = b""

    async def send(self, request: dict[str, Any]) -> None:
        await self._stream.send_all(json.dumps({"v": PROTOCOL_VERSION, **request}).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            chunk = await self._stream.receive_some(ANSWER_BYTES_MAX)
            self._received += chunk
            if not chunk or len(self._received) > ANSWER_BYTES_MAX:
                raise FailedError("the shim hung up")
        line, _, self._received = self._received.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise ProtocolError("a shim's answer cannot be read", why=str(error)) from error
        if not isinstance(answer, dict):
            raise ProtocolError("a shim's answer cannot be read", why="not an object")
        return answer


@asynccontextmanager
async def _connected(folder: Path) -> AsyncIterator[_Lines]:
    path, folder_fd = str(folder / SOCKET_NAME), -1
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        path = f"/proc/self/fd/{folder_fd}/{SOCKET_NAME}"
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        try:
            await sock.connect(path)
        finally:
            if folder_fd >= 0:
                os.close(folder_fd)
        yield _Lines(trio.SocketStream(sock))
    except trio.BrokenResourceError as error:
        raise FailedError("the shim hung up", why=str(error)) from error
    finally:
        sock.close()
