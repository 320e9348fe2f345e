"""The shim, with real processes: an app outlives its daemon, and nothing outlives its shim."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from mesh.errors import FailedError
from scheduler.runtimes import procfs
from scheduler.runtimes.logs import LOG_FILE_BYTES_MAX, LOG_FILES, LOG_LINE_BYTES_MAX, read_tail
from scheduler.runtimes.process import ProcessRuntime, read_record, sweep
from scheduler.runtimes.procfs import boottime
from tests.unit.scheduler_runtime.launching import bare_sandbox, launch_python, open_beacon, soon

STAND_IN = """
import pathlib, sys, trio
from scheduler.runtimes.process import ProcessRuntime
from tests.unit.scheduler_runtime.launching import Beacon, bare_sandbox, launch_python
async def main():
    beacon = Beacon(int(sys.argv[2]), None)
    code = "tell(pid=os.getpid()); time.sleep(600)"
    launch = launch_python(pathlib.Path(sys.argv[1]), code, beacon=beacon, run_id="abcd")
    await ProcessRuntime(bare_sandbox()).start(launch, deadline=trio.current_time() + 20)
    print("started", flush=True)
    await trio.sleep_forever()
trio.run(main)
"""


@pytest.fixture
def runtime() -> ProcessRuntime:
    return ProcessRuntime(bare_sandbox())


def texts(log: Path, stream: str) -> list[str]:
    records, _ = read_tail(log, 10_000, LOG_FILES * LOG_FILE_BYTES_MAX)
    return [record.text for record in records if record.stream == stream]


async def test_an_exit_status_is_told_and_recorded(tmp_path: Path, runtime: ProcessRuntime) -> None:
    run = await runtime.start(launch_python(tmp_path, "import sys; sys.exit(7)"), deadline=soon())
    ended = await run.wait_exit()
    assert (ended.code, ended.signal, ended.reason) == (7, None, "exited")
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record.exit == ended
    assert not (tmp_path / "run" / "control.sock").exists()


async def test_an_app_survives_kill_9_of_its_daemon_and_is_adopted_under_the_same_pid(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    async with open_beacon() as beacon, trio.open_nursery() as nursery:
        daemon = await nursery.start(
            partial(trio.run_process, check=False, cwd=Path(__file__).parents[3]),
            [sys.executable, "-c", STAND_IN, str(tmp_path), str(beacon.port)],
        )
        caller = await beacon.caller()
        pid = (await caller.hear())["pid"]
        os.kill(daemon.pid, signal.SIGKILL)
        await daemon.wait()

        run = await runtime.adopt(tmp_path / "run", "abcd", entitled=boottime(), deadline=soon())
        assert run is not None
        assert run.facts.pid == pid
        assert procfs.is_running(pid, run.facts.start_time)
        await run.stop(5)
        await caller.wait_dead()


async def test_an_app_ends_when_no_daemon_renews_it(tmp_path: Path, runtime: ProcessRuntime) -> None:
    launch = launch_python(tmp_path, "import time; time.sleep(600)", renewal_limit_s=0.4)
    run = await runtime.start(launch, deadline=soon())
    ended = await run.wait_exit()
    assert (ended.signal, ended.reason) == (signal.SIGTERM, "no daemon for 0.4 s")


async def test_renewals_keep_an_app_alive_and_a_late_one_revives_nothing(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    launch = launch_python(tmp_path, "import time; time.sleep(600)", renewal_limit_s=0.5, exclusive=True)
    run = await runtime.start(launch, deadline=soon())
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        assert await run.renew(boottime())
        await trio.sleep(0.1)
    os.kill(run.facts.shim_pid, signal.SIGSTOP)  # the whole machine sleeps, as far as this shim can tell
    await trio.sleep(0.6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.renew, boottime())  # waits in the socket until the shim wakes
        await trio.testing.wait_all_tasks_blocked(0.05)
        os.kill(run.facts.shim_pid, signal.SIGCONT)
    ended = await run.wait_exit()
    assert (ended.signal, ended.reason) == (signal.SIGKILL, "no daemon for 0.5 s")


async def test_an_exclusive_lease_counts_from_when_the_leader_was_heard(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    """A living daemon without a leader renews as of long ago: that is no renewal."""
    launch = launch_python(tmp_path, "import time; time.sleep(600)", renewal_limit_s=0.5, exclusive=True)
    run = await runtime.start(launch, deadline=soon())
    with trio.CancelScope() as renewing:
        async with trio.open_nursery() as nursery:

            async def renew_as_of_the_start() -> None:
                while True:
                    await run.renew(launch.entitled)
                    await trio.sleep(0.05)

            nursery.start_soon(renew_as_of_the_start)
            ended = await run.wait_exit()
            renewing.cancel()
    assert ended.signal == signal.SIGKILL


async def test_stop_is_graceful_first(tmp_path: Path, runtime: ProcessRuntime) -> None:
    code = """
def finish(number, frame):
    print("finishing")
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
tell(ready=True)
time.sleep(600)
"""
    async with open_beacon() as beacon:
        run = await runtime.start(launch_python(tmp_path, code, beacon=beacon), deadline=soon())
        await (await beacon.caller()).hear()
        ended = await run.stop(20)
    assert (ended.code, ended.reason) == (0, "stopped")
    assert "finishing" in texts(tmp_path / "app.log", "stdout")


async def test_stop_kills_grandchildren_that_left_the_session_and_ignore_sigterm(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    code = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(pid=os.getpid())
        time.sleep(600)
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
    async with open_beacon() as beacon:
        run = await runtime.start(launch_python(tmp_path, code, beacon=beacon), deadline=soon())
        caller = await beacon.caller()
        grandchild = (await caller.hear())["pid"]
        ended = await run.stop(0.2)
        await caller.wait_dead()
    assert ended.signal == signal.SIGKILL
    assert procfs.start_time_of(grandchild) == 0


async def test_what_an_app_leaves_behind_dies_with_it(tmp_path: Path, runtime: ProcessRuntime) -> None:
    code = """
if os.fork() == 0:
    os.setsid()
    tell(pid=os.getpid())
    time.sleep(600)
time.sleep(0.2)
"""
    async with open_beacon() as beacon:
        run = await runtime.start(launch_python(tmp_path, code, beacon=beacon), deadline=soon())
        caller = await beacon.caller()
        await caller.hear()
        assert (await run.wait_exit()).code == 0
        await caller.wait_dead()


async def test_an_app_dies_with_its_shim_and_the_sweep_finds_the_rest(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    code = """
child = os.fork()
if child == 0:
    os.setsid()
tell(pid=os.getpid())
time.sleep(600)
"""
    async with open_beacon() as beacon:
        launch = launch_python(tmp_path, code, beacon=beacon)
        run = await runtime.start(launch, deadline=soon())
        caller = await beacon.caller()
        await caller.hear()
        await caller.hear()
        os.kill(run.facts.shim_pid, signal.SIGKILL)
        ended = await run.wait_exit()
        assert (ended.code, ended.signal, ended.reason) == (None, None, "its shim was lost")
        await caller.wait_dead()


async def test_adopting_a_run_without_its_shim_gives_nothing_and_leaves_nothing(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    """Whoever is told that there is no run starts another: what is left of the first must be dead by then."""
    code = """
if os.fork() == 0:
    os.setsid()
    tell(ready=True)
    time.sleep(600)
beacon.close()
time.sleep(600)
"""
    async with open_beacon() as beacon:
        launch = launch_python(tmp_path, code, beacon=beacon)
        run = await runtime.start(launch, deadline=soon())
        caller = await beacon.caller()
        await caller.hear()
        os.kill(run.facts.shim_pid, signal.SIGKILL)
        assert await runtime.adopt(tmp_path / "run", launch.run_id, entitled=boottime(), deadline=soon()) is None
        await caller.wait_dead()


async def test_a_run_of_an_earlier_boot_is_not_mistaken_for_a_process_of_this_one(tmp_path: Path) -> None:
    """Its pid and start time may by chance be those of a process of now: only the boot tells."""
    folder = tmp_path / "run"
    folder.mkdir()
    me = os.getpid()
    facts = {
        "v": 1, "ok": True, "run": "abcd", "shim_pid": me, "shim_start": procfs.start_time_of(me), "pid": me,
        "start_time": procfs.start_time_of(me), "group": me, "started_ms": 0, "boot_id": "another", "exit": None,
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(facts))
    assert (await sweep(folder, "abcd")).reason == "its shim was lost"


async def test_adopting_nothing_gives_nothing(tmp_path: Path, runtime: ProcessRuntime) -> None:
    (tmp_path / "run").mkdir()
    assert await runtime.adopt(tmp_path / "run", "abcd", entitled=boottime(), deadline=soon()) is None


async def test_a_command_that_does_not_exist_ends_with_126_and_says_so(
    tmp_path: Path, runtime: ProcessRuntime
) -> None:
    launch = launch_python(tmp_path, "", command=("no-such-program",))
    run = await runtime.start(launch, deadline=soon())
    assert (await run.wait_exit()).code == 126
    assert texts(tmp_path / "app.log", "stderr") == [
        "freecloud: cannot start no-such-program: there is no such program here"
    ]


async def test_a_shim_that_cannot_start_is_an_error_that_says_why(tmp_path: Path, runtime: ProcessRuntime) -> None:
    launch = launch_python(tmp_path, "")
    (tmp_path / "run").rmdir()
    with pytest.raises(FailedError, match="could not be started"):
        await runtime.start(launch, deadline=soon())


async def test_logs_are_bounded_in_files_and_lines(tmp_path: Path, runtime: ProcessRuntime) -> None:
    code = f"""
import sys
sys.stdout.write("x" * {3 * LOG_LINE_BYTES_MAX + 5} + "\\n")
for number in range(400):
    sys.stdout.write((str(number) + " ").ljust(999, "y") + "\\n")
sys.stdout.write("the last, without its end")
"""
    small = 100_000
    launch = launch_python(tmp_path, code)
    log_limits = {"log_file_bytes_max": small}
    spec = runtime._spec

    def smaller(launch_: object, groups: tuple[str, ...]) -> dict[str, object]:
        return {**spec(launch, groups), **log_limits}

    runtime._spec = smaller  # type: ignore[method-assign, assignment]
    run = await runtime.start(launch, deadline=soon())
    await run.wait_exit()
    files = sorted(path for path in tmp_path.iterdir() if path.name.startswith("app.log"))
    assert len(files) == LOG_FILES
    assert all(path.stat().st_size <= small + 64 * 1024 + LOG_LINE_BYTES_MAX for path in files)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert texts(tmp_path / "app.log", "stdout")[-1] == "the last, without its end"
    assert texts(tmp_path / "app.log", "stdout")[-2].startswith("399 ")


async def test_a_very_long_line_comes_in_pieces(tmp_path: Path, runtime: ProcessRuntime) -> None:
    code = f"print('x' * {2 * LOG_LINE_BYTES_MAX + 5})"
    run = await runtime.start(launch_python(tmp_path, code), deadline=soon())
    await run.wait_exit()
    records, _ = read_tail(tmp_path / "app.log", 100, 1 << 20)
    pieces = [(len(record.text), record.continued) for record in records if record.stream == "stdout"]
    assert pieces == [(LOG_LINE_BYTES_MAX, True), (LOG_LINE_BYTES_MAX, True), (5, False)]


async def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path, runtime: ProcessRuntime) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "app.log").symlink_to(victim)
    run = await runtime.start(launch_python(tmp_path, "print('hello')"), deadline=soon())
    assert (await run.wait_exit()).code == 0
    assert victim.read_text() == "mine"


async def test_secrets_are_in_memory_and_gone_when_the_run_has_ended(tmp_path: Path, runtime: ProcessRuntime) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "KEY").write_text("hidden")
    launch = launch_python(
        tmp_path, "import os; print(os.environ['KEY'])", secrets_folder=folder, environment={"KEY": "hidden"}
    )
    run = await runtime.start(launch, deadline=soon())
    assert b"hidden" not in Path(f"/proc/{run.facts.shim_pid}/cmdline").read_bytes()
    await run.wait_exit()
    assert not folder.exists()
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
    assert b"hidden" not in written


async def test_the_control_socket_is_for_its_owner_and_its_run(tmp_path: Path, runtime: ProcessRuntime) -> None:
    run = await runtime.start(launch_python(tmp_path, "import time; time.sleep(600)"), deadline=soon())
    mode = (tmp_path / "run" / "control.sock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    answers = {}
    for request in (
        b'{"v":2,"op":"status","run":"' + run.facts.run_id.encode() + b'"}',
        b'{"v":1,"op":"stop","run":"another","grace":0}',
        b'{"v":1,"op":"explode","run":"' + run.facts.run_id.encode() + b'"}',
        b"not json at all",
        b"[" * 4000,
    ):
        async with await trio.open_unix_socket(tmp_path / "run" / "control.sock") as stream:
            await stream.send_all(request + b"\n")
            answers[request] = json.loads(await stream.receive_some())["code"]
    assert list(answers.values()) == ["version", "run", "request", "request", "request"]
    await run.stop(5)


async def test_a_folder_too_deep_for_a_socket_address_works(tmp_path: Path, runtime: ProcessRuntime) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    run = await runtime.start(launch_python(deep, "import time; time.sleep(600)"), deadline=soon())
    assert await run.renew(boottime())
    assert (await run.stop(5)).signal == signal.SIGTERM


async def test_a_shim_is_small(tmp_path: Path, runtime: ProcessRuntime) -> None:
    """3.2 MB of its own; a forgotten import of json, socket, enum or pathlib would show here."""
    run = await runtime.start(launch_python(tmp_path, "import time; time.sleep(600)"), deadline=soon())
    rollup = Path(f"/proc/{run.facts.shim_pid}/smaps_rollup").read_text().splitlines()
    private_kb = next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))
    await run.stop(5)
    assert private_kb < 4000
