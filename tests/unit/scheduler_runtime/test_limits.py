"""What one app may take of a machine: processes, memory; and that nothing of it is left (attack 39, fault P5)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from scheduler.runtimes.cgroups import find_control_groups, folder_of
from scheduler.runtimes.process import ProcessRuntime
from scheduler.runtimes.procfs import numbers_in
from scheduler.runtimes.runtime import ResourceLimits
from scheduler.runtimes.sandbox import Rung
from scheduler.runtimes.sandbox_probe import LADDER
from scheduler.runtimes.shim_memory import LOOK_EVERY_S
from tests.unit.scheduler_runtime.launching import bare_sandbox, hear, launch_python, soon
from tests.unit.scheduler_runtime.rungs import GROUPS, give, rung


@pytest.mark.parametrize("which", LADDER, ids=lambda which: which.value)
async def test_a_fork_bomb_meets_its_limit(which: Rung, home: Path) -> None:
    sandbox = await rung(which, home)
    code = """
count = 0
try:
    while count < 2000:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError:
    pass
tell(count=count)
time.sleep(600)
"""
    runtime = ProcessRuntime(sandbox, groups=GROUPS)
    launch = give(sandbox, launch_python(home / "apps" / "web-1", code, spoken=True), "web-1")
    async with hear(launch) as caller:
        limits = replace(launch.limits, pids=40)
        run = await runtime.start(replace(launch, limits=limits), deadline=soon())
        count = (await caller.hear())["count"]
        await run.stop(0)
        await caller.wait_dead()
    assert 10 <= count <= 60


@pytest.mark.parametrize("which", LADDER, ids=lambda which: which.value)
async def test_without_control_groups_the_shim_bounds_the_memory_of_an_apps_whole_tree(which: Rung, home: Path) -> None:
    """No process of it alone is over the limit; those that left the app's session count as well."""
    sandbox = await rung(which, home)
    code = """
import mmap
shared = b"x" * (40 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(600)
tell(sharing=True)
open("go").read()
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            own = mmap.mmap(-1, 40 << 20)
            own.write(b"x" * (40 << 20))
            time.sleep(600)
        os._exit(0)
time.sleep(600)
"""
    launch = give(sandbox, launch_python(home / "apps" / "web-1", code, spoken=True), "web-1")
    os.mkfifo(launch.work / "go")
    (launch.work / "go").chmod(0o666)
    launch = replace(launch, limits=replace(launch.limits, memory_bytes=128 << 20))
    async with hear(launch) as caller:
        run = await ProcessRuntime(sandbox).start(launch, deadline=soon())
        await caller.hear()
        # Five processes that share 40 MiB are not 200 MiB; several looks later they still run.
        with trio.move_on_after(4 * LOOK_EVERY_S):
            await run.wait_exit()
        assert run.facts.exit is None
        await trio.to_thread.run_sync((launch.work / "go").write_text, "")
        ended = await run.wait_exit()
        await caller.wait_dead()
    assert (ended.signal, ended.reason) == (9, "out of memory")


@pytest.mark.root
async def test_what_a_killed_shim_leaves_is_swept_though_it_hides_whose_it_is(home: Path) -> None:
    """On the rungs without a process namespace a child that left the session and its environment outlives the shim."""
    if not GROUPS.controls("pids"):
        pytest.skip("this user may make no control groups")
    sandbox = await rung(Rung.UID, home)
    code = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", "read line < stay"], {})
    os._exit(0)
os.wait()
tell(ready=True)
time.sleep(600)
"""
    launch = give(sandbox, launch_python(home / "apps" / "web-1", code, spoken=True), "web-1")
    os.mkfifo(launch.work / "stay")
    (launch.work / "stay").chmod(0o666)
    runtime = ProcessRuntime(sandbox, groups=GROUPS)
    async with hear(launch) as caller:
        run = await runtime.start(launch, deadline=soon())
        await caller.hear()
        hidden = [pid for pid in numbers_in(f"{run.facts.cgroups[0]}/cgroup.procs") if pid != run.facts.pid]
        assert hidden
        handles = [os.pidfd_open(pid) for pid in hidden]
        os.kill(run.facts.shim_pid, signal.SIGKILL)
        assert (await run.wait_exit()).reason == "its shim was lost"
        for handle in handles:
            await trio.lowlevel.wait_readable(handle)
            os.close(handle)


@pytest.mark.deadline(120)
async def test_an_app_over_its_share_of_the_processor_gives_way_until_it_has_made_up_for_it(home: Path) -> None:
    sandbox = bare_sandbox()
    if not GROUPS.controls("cpu"):
        pytest.skip("this user may make no control groups")
    code = "import os, time\nwhile not os.path.exists('enough'): pass\ntime.sleep(600)"
    launch = launch_python(home / "apps" / "web-1", code)
    launch = replace(launch, limits=replace(launch.limits, cpu=0.4))
    run = await ProcessRuntime(sandbox, groups=GROUPS).start(launch, deadline=soon())
    group = next((Path(group) for group in run.facts.cgroups if (Path(group) / "cpu.idle").exists()), None)
    if group is None:
        await run.stop(0)
        pytest.skip("this kernel has no idle control groups")
    weight = next(name for name in ("cpu.shares", "cpu.weight") if (group / name).exists())
    # Else a busy machine would never give it more than its share. It is not what the shim counts by.
    (group / weight).write_text("10000")
    share = (group / weight).read_text()
    assert (group / "cpu.idle").read_text() == "0\n"
    await _until(lambda: (group / "cpu.idle").read_text() == "1\n")
    (launch.work / "enough").touch()
    await _until(lambda: (group / "cpu.idle").read_text() == "0\n")
    assert (group / weight).read_text() == share
    await run.stop(0)


async def _until(reached: Callable[[], bool]) -> None:
    """The kernel tells nobody of it."""
    while not reached():  # noqa: ASYNC110
        await trio.sleep(0.05)


async def test_an_app_that_eats_memory_is_ended_alone_and_the_reason_is_told(home: Path) -> None:
    if not GROUPS.controls("memory"):
        pytest.skip("this user may make no control groups: memory is not bounded here")
    sandbox = bare_sandbox()
    code = "eaten = []\nwhile True:\n    eaten.append(bytes(1 << 20).replace(b'\\0', b'x'))"
    launch = launch_python(home / "apps" / "web-1", code)
    launch = replace(launch, limits=replace(launch.limits, memory_bytes=64 << 20))
    run = await ProcessRuntime(sandbox, groups=GROUPS).start(launch, deadline=soon())
    ended = await run.wait_exit()
    assert (ended.signal, ended.reason) == (9, "out of memory")
    for name, root in GROUPS.roots:
        assert not folder_of(name, root, "web-1").exists()


def test_empty_control_groups_are_given_back_and_full_ones_stay() -> None:
    groups = find_control_groups(f"test-{os.getpid()}")
    if not groups.controls("pids"):
        pytest.skip("this user may make no control groups")
    limits = ResourceLimits(cpu=1.0, memory_bytes=256 << 20, disk_bytes=1 << 20)
    folders = groups.prepare("web-1", limits)
    groups.prepare("web-2", limits)
    member = subprocess.Popen(["sleep", "600"])
    for folder in folders:
        (Path(folder) / "cgroup.procs").write_text(str(member.pid))
    groups.release()
    assert all(Path(folder).is_dir() for folder in folders)
    assert not any(folder_of(name, root, "web-2").exists() for name, root in groups.roots)
    member.kill()
    member.wait()
    groups.release()
    assert not any(root.exists() for _, root in groups.roots)
