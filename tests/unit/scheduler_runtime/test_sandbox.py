"""Each rung of the ladder, as far as this machine has it: what an app cannot reach, and that without it, it could."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.ports import free_port
from scheduler.runtimes.logs import read_tail
from scheduler.runtimes.process import ProcessRuntime
from scheduler.runtimes.sandbox import Rung, Sandbox
from scheduler.runtimes.sandbox_probe import LADDER, probe_ladder
from tests.unit.scheduler_runtime.launching import bare_sandbox, hear, launch_python, soon
from tests.unit.scheduler_runtime.rungs import GROUPS, give, rung
from tests.unit.scheduler_runtime.targets import FAR, metadata_address, targets

HOSTILE = Path(__file__).parents[3] / "examples" / "hostile" / "src" / "tries.py"

TRIES = (
    HOSTILE.read_text().replace("from __future__ import annotations\n", "")
    + """
open("proof", "w").write("x")
import tempfile
with tempfile.NamedTemporaryFile():
    tell(**attempt_all())
"""
)
"""The example's own code: what it shows to people is what is tested."""

NETWORK = set(re.findall(r"    (\w+),", HOSTILE.read_text().partition("NETWORK: ")[2].partition("\n)")[0]))


async def run_tries(sandbox: Sandbox, home: Path) -> dict[str, Any]:
    """Run the hostile program as replica web-1 beside web-2; returns what it achieved."""
    runtime = ProcessRuntime(sandbox, groups=GROUPS)
    neighbour = launch_python(home / "apps" / "web-3", "tell(ready=1); time.sleep(600)", spoken=True)
    neighbour = give(sandbox, neighbour, "web-3")
    launch = give(sandbox, launch_python(home / "apps" / "web-1", TRIES, spoken=True), "web-1")
    with targets() as aims:
        async with hear(neighbour) as beside:
            other = await runtime.start(neighbour, deadline=soon())
            await beside.hear()
        aims |= {
            "HOSTILE_HOME": str(home),
            "HOSTILE_NEIGHBOUR": str(home / "apps" / "web-2"),
            "HOSTILE_DAEMON": str(os.getpid()),
            "HOSTILE_OTHER": str(other.facts.group),
        }
        launch = replace(launch, environment={**launch.environment, **aims})
        async with hear(launch) as caller:
            run = await runtime.start(launch, deadline=soon())
            told = await caller.hear()
        await run.stop(5)
        await other.stop(5)
    return told


@pytest.mark.parametrize("which", LADDER, ids=lambda which: which.value)
async def test_an_app_gets_nowhere_on_this_rung(which: Rung, home: Path) -> None:
    sandbox = await rung(which, home)
    told = await run_tries(sandbox, home)
    assert {name: got for name, got in told.items() if got == "got it"} == {}
    assert len(told) >= 25
    assert (home / "apps" / "web-2" / "work" / "data").read_text() == "the neighbour's"


@pytest.mark.parametrize("scoped", [True, False], ids=["landlock scope", "no unix sockets"])
async def test_bubblewrap_without_a_network_namespace_holds_as_well(scoped: bool, home: Path) -> None:
    """Many containers give none; older kernels' Landlock knows no scopes."""
    sandbox = await rung(Rung.BUBBLEWRAP, home)
    if scoped and not sandbox.scoped:
        pytest.skip("no Landlock scopes in this kernel")
    told = await run_tries(replace(sandbox, own_network=False, scoped=scoped), home)
    assert {name: got for name, got in told.items() if got == "got it"} == {}


@pytest.mark.parametrize("which", LADDER, ids=lambda which: which.value)
async def test_where_tcp_sockets_can_have_no_filter_the_shim_connects_and_the_rung_holds(
    which: Rung, home: Path
) -> None:
    """So it is for ordinary users from Linux 6.18 on; under root, the shim is told to leave the filter off."""
    sandbox = await rung(which, home)
    if not sandbox.scoped:
        pytest.skip("no Landlock in this kernel that bounds ports and scopes")
    told = await run_tries(replace(sandbox, supervised=True, own_network=False), home)
    assert {name: got for name, got in told.items() if got == "got it"} == {}


async def test_an_own_user_without_landlock_has_no_unix_sockets(home: Path) -> None:
    told = await run_tries(replace(await rung(Rung.UID, home), scoped=False), home)
    assert {name: got for name, got in told.items() if got == "got it"} == {}


@pytest.mark.root
async def test_without_a_sandbox_the_same_program_gets_what_it_wants(home: Path) -> None:
    """Else the tries would prove nothing."""
    if os.getuid() != 0:
        pytest.skip("needs root to succeed at everything")
    told = await run_tries(bare_sandbox(), home)
    # Limits hold without a sandbox too; what this kernel has not at all proves nothing either way.
    failed = {name: why for name, why in told.items() if why != "got it"}
    assert set(failed) <= {"raise_a_limit", "dump_core", "type_into_a_terminal", "map_physical_memory"}, failed


@pytest.mark.parametrize("which", LADDER, ids=lambda which: which.value)
async def test_where_the_kernel_cannot_close_the_network_the_rung_says_so_and_the_tries_show_it(
    which: Rung, home: Path
) -> None:
    """What closes it is the shim's sockets alone; the rest of the rung holds without them."""
    sandbox = replace(await rung(which, home), brokered=False, own_network=False, supervised=False, scoped=False)
    assert sandbox.name == f"{which.value}, open network"
    told = await run_tries(sandbox, home)
    got = {name for name, got in told.items() if got == "got it"}
    closed = {"connect_to_an_abstract_socket", "listen_to_all_packets"}
    if which is Rung.BUBBLEWRAP:
        closed.remove("connect_to_an_abstract_socket")
    assert got == {name for name in told if name in NETWORK} - closed


@pytest.mark.parametrize("supervised", [False, True], ids=["filtered", "supervised"])
@pytest.mark.parametrize("which", LADDER, ids=lambda which: which.value)
async def test_an_app_reaches_what_is_far_and_is_reached_at_its_own_port_alone(
    which: Rung, supervised: bool, home: Path
) -> None:
    """From a machine on the other end of a cable and from this one; also after an accept, by IPv6, and by name."""
    if os.getuid() != 0:
        pytest.skip("needs root for a cable")
    sandbox = await rung(which, home)
    if supervised:
        sandbox = replace(sandbox, supervised=True, own_network=False)
    port = free_port(random.Random())
    listening = socket.create_server(("127.0.0.1", 0))
    stranger = listening.getsockname()[1]
    code = f"""
import ctypes, select
with socket.create_connection(("{FAR}", 80), 20) as talk:
    talk.sendall(b"?")
    far = talk.recv(7).decode()
with socket.socket(socket.AF_INET6) as talk:
    talk.connect(("::ffff:{FAR}", 80))  # without a timeout: it waits
    talk.sendall(b"?")
    mapped = talk.recv(7).decode()
inherited = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK).get_inheritable()
here = socket.create_server(("127.0.0.1", {port}))
beside = socket.create_server(("127.0.0.1", 0))
own = socket.create_connection(here.getsockname(), 5)
used, _ = here.accept()
ctypes.CDLL(None).connect(used.fileno(), ctypes.create_string_buffer(16), 16)  # taken apart: it may go out again
used.setblocking(False)
try:
    used.sendto(b"?", socket.MSG_FASTOPEN, ("127.0.0.1", {stranger}))
except BlockingIOError:
    again = bool(select.select([], [used], [], 1.0)[1])
except PermissionError:
    again = False
full = []
try:
    while True:
        full.append(socket.socket())
except OSError as error:
    full = error.errno
names = [name for _, name in socket.if_nameindex()]
reached = dict(far=far, mapped=mapped, again=again)
tell(**reached, inherited=inherited, beside=beside.getsockname()[1], interfaces=names, full=full)
visitor, _ = here.accept()
visitor.sendall(visitor.recv(5))
tell(beside=bool(select.select([beside], [], [], 0)[0]))
"""
    launch = give(sandbox, launch_python(home / "apps" / "web-1", code, spoken=True), "web-1")
    launch = replace(launch, environment={**launch.environment, "PORT": str(port)})
    with metadata_address():
        async with hear(launch) as caller:
            run = await ProcessRuntime(sandbox, groups=GROUPS).start(launch, deadline=soon())
            told = await caller.hear()
            assert (told["far"], told["mapped"], told["inherited"]) == ("secrets", "secrets", False)
            assert not told["again"]
            assert told["full"] == errno.EMFILE
            assert "eth0" in told["interfaces"] or len(told["interfaces"]) > 1
            with socket.socket() as visitor:
                visitor.setblocking(False)
                visitor.connect_ex(("127.0.0.1", told["beside"]))
                with socket.create_connection(("127.0.0.1", port), 20) as talk:
                    talk.sendall(b"hello")
                    assert talk.recv(5) == b"hello"
                # Without a filter any port that the kernel chose can be reached; none of them is ever a neighbour's.
                assert (await caller.hear())["beside"] is supervised
            await run.stop(5)
    listening.close()


@pytest.mark.parametrize("which", LADDER, ids=lambda which: which.value)
async def test_an_app_finds_what_programs_need(which: Rung, home: Path) -> None:
    """Names, certificates, devices, temporary files, its own processes: else sandboxes get switched off."""
    sandbox = await rung(which, home)
    code = """
import ssl, tempfile
random = len(open("/dev/urandom", "rb").read(8))
open("/dev/null", "w").write("x")
names = socket.getaddrinfo("localhost", 80, socket.AF_INET)[0][4][0]
hosts = bool(open("/etc/hosts").read()) and bool(open("/etc/passwd").read())
shell = os.popen("echo $((6 * 7)); ls -d .").read()
with tempfile.TemporaryDirectory() as folder:
    os.mkdir(folder + "/sub")
    os.symlink("a", folder + "/b")
pair = socket.socketpair()
import threading
thread = threading.Thread(target=int)
thread.start()
thread.join()
tell(random=random, names=names, hosts=hosts, shell=shell, me=open("/proc/self/comm").read())
"""
    launch = give(sandbox, launch_python(home / "apps" / "web-1", code, spoken=True), "web-1")
    async with hear(launch) as caller:
        run = await ProcessRuntime(sandbox, groups=GROUPS).start(launch, deadline=soon())
        told = await caller.hear()
        assert (await run.wait_exit()).code == 0
    assert told["names"] == "127.0.0.1"
    assert told["shell"] == "42\n.\n"
    assert told["hosts"]


@pytest.mark.root
def test_a_sandbox_holds_under_a_daemon_with_real_time_priority(home: Path) -> None:
    """Its apps are scheduled like others: a control group with a share of the processor takes no real-time tasks."""
    if os.getuid() != 0 or shutil.which("chrt") is None:
        pytest.skip("needs root and chrt")
    code = f"""
import trio
from pathlib import Path
from scheduler.runtimes.sandbox_probe import *
place, groups = Path({str(home / "apps")!r}), find_control_groups("test")
print(trio.run(lambda: probe_ladder(place, seed="test", groups=groups)).rung)
"""
    code = "from scheduler.runtimes.cgroups import find_control_groups\n" + code
    done = subprocess.run(
        ["chrt", "-r", "1", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() in {which.value for which in LADDER}, done.stderr


async def test_signals_reach_the_app_through_bubblewrap(home: Path) -> None:
    sandbox = await rung(Rung.BUBBLEWRAP, home)
    code = """
def finish(number, frame):
    tell(got=number)
    sys.exit(5)
signal.signal(signal.SIGTERM, finish)
tell(pid=os.getpid(), host=socket.gethostname())
while True:
    time.sleep(600)
"""
    runtime = ProcessRuntime(sandbox, groups=GROUPS)
    launch = give(sandbox, launch_python(home / "apps" / "web-1", code, spoken=True), "web-1")
    async with hear(launch) as caller:
        run = await runtime.start(launch, deadline=soon())
        first = await caller.hear()
        assert first["host"] == "web-1"
        assert first["pid"] < 10  # it counts from one in there
        ended = await run.stop(20)
        assert (await caller.hear())["got"] == 15
    assert ended.code == 5


async def test_the_manifest_cannot_reach_the_stages_before_the_sandbox_by_its_environment(home: Path) -> None:
    """LD_PRELOAD and friends are obeyed by the app alone, not by bubblewrap nor by what runs as the daemon's user."""
    sandbox = await rung(Rung.BUBBLEWRAP, home)
    environment = {"LD_PRELOAD": "/nowhere/evil.so", "PYTHONSTARTUP": "/nowhere/evil.py", "PYTHONHOME": "/nowhere"}
    launch = launch_python(home / "apps" / "web-1", "", environment=environment)
    launch = replace(give(sandbox, launch, "web-1"), command=("/bin/sh", "-c", "echo it runs"))
    run = await ProcessRuntime(sandbox).start(launch, deadline=soon())
    assert (await run.wait_exit()).code == 0
    records, _ = read_tail(launch.log, 100, 1 << 20)
    complaints = [record.text for record in records if "evil.so" in record.text]
    assert len(complaints) <= 1  # the shell's own loader, once
    assert "it runs" in [record.text for record in records]


async def test_the_best_rung_is_taken_and_the_reasons_for_the_others_are_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no bubblewrap to be found
    probed = await probe_ladder(home / "apps", seed="test", groups=GROUPS)
    assert probed.reasons[0] == (Rung.BUBBLEWRAP, "bubblewrap is not installed")
    assert probed.sandbox is None or probed.sandbox.rung in (Rung.UID, Rung.LANDLOCK)


async def test_two_replicas_never_share_a_uid_and_one_keeps_its_own() -> None:
    if os.getuid() != 0:
        pytest.skip("only root gives uids")
    bare = bare_sandbox()
    sandbox = Sandbox(Rung.UID, "node-a", bare.interpreter, bare.shim_python)
    other_node = Sandbox(Rung.UID, "node-b", bare.interpreter, bare.shim_python)
    uids = [sandbox.owner_of(f"web-{number}") for number in range(2000)]
    assert len(set(uids)) == 2000
    assert uids[1] == sandbox.owner_of("web-1")
    assert uids[1] != other_node.owner_of("web-1")
