# ruff: noqa: PTH105, PTH106, PTH108, PTH123, PTH208
# `pathlib` would double what a shim weighs.
"""The shim at work: one app from its start to its end. What a shim is, and its protocol: `shim.py`."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import os
import select
import time

from scheduler.runtimes.procfs import (
    boot_id,
    boottime,
    kill,
    kill_group,
    numbers_in,
    read_file,
    start_time_of,
)
from scheduler.runtimes.shim_control import Client, ControlSocket
from scheduler.runtimes.shim_log import Flow, RotatedLog
from scheduler.runtimes.shim_memory import MemoryWatch
from scheduler.runtimes.shim_share import FairShare
from scheduler.runtimes.shim_sockets import SocketBroker
from scheduler.runtimes.shim_wire import PROTOCOL_VERSION, decode, encode, refusal

TYPE_CHECKING = False  # what `typing` calls it, without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

INFO_BYTES_MAX = 4096
READ_BYTES = 64 * 1024
REAP_S_MAX = 5.0
"""How long the dead are waited for after SIGKILL: a process in an uninterruptible wait must not keep the shim."""

SIGTERM, SIGKILL = 15, 9

OUT_OF_MEMORY = "out of memory"


class Shim:
    """Owns one app from its start to its end; see the module's docstring."""

    def __init__(self, folder: str, spec: dict[str, Any]) -> None:
        self.folder = folder
        self.spec = spec
        self.run_id = str(spec["run"])
        self.forsaken = False  # no daemon came back: what it would tidy up is ours to tidy up
        self.exclusive = bool(spec["exclusive"])
        self.limit_s = float(spec["renewal_limit_s"])
        self.entitled = float(spec["entitled"])
        self.secrets_folder = str(spec["secrets_folder"])
        self.cgroups = [str(path) for path in spec["cgroups"]]
        self.log = RotatedLog(
            str(spec["log"]),
            file_bytes_max=int(spec["log_file_bytes_max"]),
            files=int(spec["log_files"]),
            line_bytes_max=int(spec["log_line_bytes_max"]),
        )
        self.flow = Flow(int(spec["log_bytes_per_s"]), int(spec["log_burst_bytes"]), refill_bytes=READ_BYTES)
        self.poll = select.poll()
        self.handlers: dict[int, Callable[[], object]] = {}
        self.output: dict[int, str] = {}
        self.output_paused = False
        self.pid = 0
        self.group = 0
        self.start_time = 0
        self.started_ms = 0
        self.info = b""
        self.kill_at = 0.0  # monotonic; 0: nobody asked for an end yet
        self.end_reason = "exited"
        self.exit: dict[str, Any] | None = None
        self.leftovers = 0
        self.signals = -1
        self.sockets: SocketBroker | None = None
        self.share = FairShare(self.cgroups, float(spec.get("cores", 1.0)))
        self.memory = MemoryWatch(int(spec["memory_bytes"])) if spec.get("memory_bytes") else None

    # --- starting ------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Take the control socket, in the run's folder."""
        os.chdir(self.folder)
        self.control = ControlSocket(
            "control.sock", watch=self._watch, unwatch=self._unwatch, serve=self.serve
        )

    def catch_signals(self) -> None:
        """A child's end and SIGTERM become a readable descriptor; a hang-up is nothing to a shim."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda number, frame: None)
        _signal.signal(_signal.SIGTERM, lambda number, frame: self.end("shim was told to end", 10.0))
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
        self.signals = reader
        self._watch(reader, lambda: _drain(reader))

    def spawn(self) -> None:
        """Start the app. Its environment goes by a descriptor: the stages before the sandbox must not obey it."""
        out_reader, out_writer = os.pipe2(os.O_CLOEXEC)
        err_reader, err_writer = os.pipe2(os.O_CLOEXEC)
        info_reader, info_writer = os.pipe2(os.O_CLOEXEC)
        sockets_writer = self._open_broker()
        env_fd = os.memfd_create("environment", os.MFD_CLOEXEC)
        os.write(env_fd, encode(self.spec["env"]).encode())
        os.lseek(env_fd, 0, os.SEEK_SET)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        # Moved far up first: a descriptor that is 3 or 4 already must not be overwritten by its neighbour.
        sources = [_move_up(fd) for fd in (null, out_writer, err_writer, info_writer, env_fd, sockets_writer)]
        argv = [str(part) for part in self.spec["argv"]]
        environment = {"PATH": str(self.spec["path"]), "SHIM_PID": str(os.getpid()), "LANG": "C.UTF-8"}
        self.pid = os.posix_spawn(
            argv[0],
            argv,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(sources)],
            setsid=True,
            setsigmask=[],
            setsigdef=[_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGHUP, _signal.SIGCHLD, _signal.SIGTERM],
        )
        for fd in sources:
            os.close(fd)
        self.spec = {}  # it held the app's secrets
        self.group = self.pid
        self.start_time = start_time_of(self.pid)
        self.started_ms = int(time.time() * 1000)
        for fd, stream in ((out_reader, "o"), (err_reader, "e")):
            os.set_blocking(fd, False)
            self.output[fd] = stream
        self._watch(out_reader, lambda: self.read_output(out_reader))
        self._watch(err_reader, lambda: self.read_output(err_reader))
        os.set_blocking(info_reader, False)
        self._watch(info_reader, lambda: self.read_info(info_reader))
        self.write_status()
        self.log.note(f"started, pid {self.pid}")

    def _open_broker(self) -> int:
        """The app's end of the channel to the maker of its sockets."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        wanted = self.spec.get("sockets")
        if wanted:
            self.sockets = SocketBroker(
                ours,
                owner=wanted["owner"],
                port=int(wanted["port"]),
                supervised=bool(wanted["supervised"]),
                connect_number=int(wanted["connect"]),
                watch=self._watch,
                unwatch=self._unwatch,
            )
        return int(theirs.detach())

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the app has ended and everything that it left behind is dead."""
        while self.exit is None:
            ready = self.poll.poll(self.next_wake_ms())
            # Before any request: a renewal that comes after the end of the lease must not revive it.
            self.check_lease()
            for fd, _ in ready:
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler()
            self.check_time()
            self.reap()
        self.finish()

    def next_wake_ms(self) -> int:
        """Milliseconds to the next thing that is due.

        `poll` counts by a clock that stands still in suspend, the lease does not: hence never longer than an eighth
        of the limit, which is one second for an exclusive app.
        """
        waits = [self.limit_s / 8]
        if self.kill_at:
            waits.append(self.kill_at - time.monotonic())
        else:
            waits.append(self.entitled + self.limit_s - boottime())
            if self.memory:
                waits.append(self.memory.wait_s())
        if self.share.possible:
            waits.append(self.share.wait_s())
        if self.output_paused:
            waits.append(self.flow.wait_s())
        pause_s = self.sockets.wait_s() if self.sockets else None
        if pause_s is not None:
            waits.append(pause_s)
        return max(0, int(min(waits) * 1000) + 1)

    def check_lease(self) -> None:
        if not self.kill_at and boottime() >= self.entitled + self.limit_s:
            self.forsaken = True
            # An exclusive app may run elsewhere soon: no grace for it.
            self.end(f"no daemon for {self.limit_s:g} s", 0.0 if self.exclusive else 10.0)

    def check_time(self) -> None:
        now = time.monotonic()
        if self.kill_at and now >= self.kill_at:
            self.kill_all()
            self.kill_at = now + 1.0  # again, should something have been forked meanwhile
        if self.output_paused and not self.flow.wait_s():
            self.output_paused = False
            for fd in self.output:
                self.poll.register(fd, select.POLLIN)
        if self.sockets:
            self.sockets.check_time()
        if self.share.possible:
            self.share.check()
        if self.memory and not self.kill_at and self.memory.is_over():
            self.end(OUT_OF_MEMORY, 0.0)
        self.control.drop_silent()

    def end(self, reason: str, grace_s: float) -> None:
        """Ask the app to end; SIGKILL follows after `grace_s`. A second call can only bring the end nearer."""
        kill_at = time.monotonic() + grace_s
        if not self.kill_at:
            self.end_reason = reason
            self.log.note(f"ending: {reason}")
            if grace_s > 0:
                kill_group(self.group, SIGTERM)
        self.kill_at = min(self.kill_at or kill_at, kill_at)

    def reap(self) -> None:
        """Collect dead children: the app itself, and orphans that came to us as their subreaper."""
        while self.exit is None:
            try:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if child is None:
                return
            if child.si_pid == self.pid:
                # Still a zombie, so that its number cannot belong to a stranger while its group is killed.
                self.kill_all()
                status = os.waitpid(self.pid, 0)[1]
                self.reap_leftovers()
                if os.WIFSIGNALED(status) and os.WTERMSIG(status) == SIGKILL and self.ran_out_of_memory():
                    self.end_reason = OUT_OF_MEMORY
                self.exit = {
                    "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                    "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                    "at_ms": int(time.time() * 1000),
                    "reason": self.end_reason,
                    # Bubblewrap's own second process is none of the app's.
                    "leftovers": max(0, self.leftovers - (self.group != self.pid)),
                }
            else:
                os.waitpid(child.si_pid, 0)

    def kill_all(self) -> None:
        """SIGKILL to whatever the app is or was: group, control groups, and all that fell to us as orphans."""
        kill_group(self.group, SIGKILL)
        kill_group(self.pid, SIGKILL)
        for path in self.cgroups:
            for pid in numbers_in(f"{path}/cgroup.procs"):
                kill(pid, SIGKILL)
        me = os.getpid()
        for pid in numbers_in(f"/proc/{me}/task/{me}/children"):
            kill(pid, SIGKILL)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in our control group for want of memory."""
        for path in self.cgroups:
            for name in ("memory.events", "memory.oom_control"):
                words = read_file(f"{path}/{name}").split()
                if b"oom_kill" in words[:-1] and words[words.index(b"oom_kill") + 1] != b"0":
                    return True
        return False

    def reap_leftovers(self) -> None:
        """After the app: kill and collect what it left, each generation falling to us in turn."""
        deadline = time.monotonic() + REAP_S_MAX
        while time.monotonic() < deadline:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                self.leftovers += 1
                continue
            self.kill_all()
            _drain(self.signals)
            select.select([self.signals], [], [], 0.01)
        self.log.note("some of its processes could not be killed")

    def finish(self) -> None:
        """The last acts, in the order that a daemon may rely on: log, record, secrets, socket, watchers."""
        for fd in list(self.output):
            for _ in range(64):  # what a dead app can have left in a pipe is 64 KiB, unless somebody else holds it
                if not self.read_output(fd):
                    break
        self.log.finish()
        exit_facts = self.exit or {}
        self.log.note(f"ended: {_describe(exit_facts)}")
        self.write_status()
        _remove_folder(self.secrets_folder)
        for path in self.cgroups:
            _remove_folder(path)
            parent = os.path.dirname(path)  # noqa: PTH120
            if self.forsaken and os.path.basename(parent).startswith("freecloud-"):  # noqa: PTH119
                _remove_folder(parent)  # the node's own, when the last of its runs goes
        self.control.close(self.status())

    # --- output and information ----------------------------------------------------------------------------------

    def read_output(self, fd: int) -> bool:
        """Take one chunk; False when there is none (yet, or ever again)."""
        try:
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._unwatch(fd)
            del self.output[fd]
            os.close(fd)
            return False
        self.log.feed(self.output[fd], chunk)
        self.flow.take(len(chunk))
        if self.exit is None and self.flow.wait_s() and not self.output_paused:
            self.output_paused = True
            for each in self.output:
                self.poll.unregister(each)
        return True

    def read_info(self, fd: int) -> None:
        """What bubblewrap says of the process that it started: signals go to that one's group, not to bubblewrap's."""
        chunk = os.read(fd, INFO_BYTES_MAX)
        self.info += chunk
        if chunk and len(self.info) < INFO_BYTES_MAX:
            return
        self._unwatch(fd)
        os.close(fd)
        if self.info:
            try:
                self.group = int(decode(self.info.decode())["child-pid"])
            except (ValueError, KeyError) as error:
                self.log.note(f"the sandbox gave no process id: {error}")
            self.write_status()

    # --- control -------------------------------------------------------------------------------------------------

    def serve(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request; the answer holds the run's status, or says why not."""
        if request.get("v") != PROTOCOL_VERSION:
            return refusal("version", f"this shim speaks version {PROTOCOL_VERSION}")
        if request.get("run") != self.run_id:
            return refusal("run", f"this is run {self.run_id}")
        match request:
            case {"op": "status"}:
                pass
            case {"op": "watch"}:
                client.watching = True
            case {"op": "renew" | "adopt" as op, "entitled": float() | int() as entitled}:
                if self.kill_at:
                    return refusal("ending", self.end_reason)
                self.entitled = max(self.entitled, min(float(entitled), boottime()))
                if op == "adopt":
                    self.log.note("adopted by a new daemon")
            case {"op": "stop", "grace": float() | int() as grace}:
                self.end("stopped", max(0.0, float(grace)))
            case _:
                return refusal("request", "unknown operation")
        return self.status()

    def status(self) -> dict[str, Any]:
        me = os.getpid()
        return {
            "v": PROTOCOL_VERSION,
            "ok": True,
            "run": self.run_id,
            "shim_pid": me,
            "shim_start": start_time_of(me),
            "pid": self.pid,
            "start_time": self.start_time,
            "group": self.group,
            "started_ms": self.started_ms,
            "boot_id": boot_id(),
            "ending": bool(self.kill_at),
            "cgroups": self.cgroups,
            "exit": self.exit,
        }

    def write_status(self) -> None:
        """The record that a daemon finds when this process is gone: whole, or the one before."""
        try:
            with open("status.new", "w") as file:
                file.write(encode(self.status()))
            os.replace("status.new", "status.json")
        except OSError as error:
            self.log.note(f"the record of this run could not be written: {error}")

    def _watch(self, fd: int, handler: Callable[[], object], events: int = select.POLLIN) -> None:
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None and not (self.output_paused and fd in self.output):
            self.poll.unregister(fd)


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        return


def _move_up(fd: int) -> int:
    """The same file under a number of 64 or more; the old number is closed."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(fd)
    return moved


def _remove_folder(path: str) -> None:
    """Remove a flat folder of small files (secrets), or a control group, whose files cannot and need not be removed."""
    if not path:
        return
    try:
        names = [] if path.startswith("/sys/fs/cgroup/") else os.listdir(path)
        for name in names:
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
    except OSError:
        return  # gone already, or still busy: the daemon sweeps what is left when it forgets the replica


def _describe(facts: dict[str, Any]) -> str:
    how = f"signal {facts['signal']}" if facts.get("signal") is not None else f"exit status {facts.get('code')}"
    left = f", {facts['leftovers']} left-over processes killed" if facts.get("leftovers") else ""
    return f"{how} ({facts.get('reason')}){left}"
