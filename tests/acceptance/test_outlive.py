"""Done when, line 7: apps outlive their daemon, but not for long, and not their node's end (rules A1, A2; fault P5).

The hostile app is in `test_hostile.py`; the full 60 s are in `bench/orphans.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.runtimes.sandbox_probe import LADDER
from tests.e2e import leftovers, strace
from tests.e2e.cluster import Daemon, cluster, wait_until
from tests.e2e.short_lease import LIMIT_S
from tests.e2e.stray_app import STRAYS, StrayApp, write_stray_app

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "whereami" / "app.yaml"
RUNGS = [rung.value for rung in LADDER]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an app's own user can pass through, with a path short enough for a socket; nothing stays of it."""
    made = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made.chmod(0o711)
    before = leftovers.secrets_in_memory()
    yield made
    wait_until("no process has to do with the folder", lambda: not leftovers.processes_of(made))
    assert not leftovers.mounts_of(made)
    assert leftovers.secrets_in_memory() <= before
    shutil.rmtree(made)


def new_home(folder: Path, name: str, rung: str) -> Daemon:
    """A node of its own whose apps run on this rung."""
    node = Daemon(name, folder / name)
    node.home.mkdir(mode=0o711)
    (node.home / "freecloud.toml").write_text(f'sandbox = "{rung}"\n')
    return node


def take_rung(node: Daemon, rung: str) -> None:
    """Skip what this machine does not have."""
    found = node.status()["node"]["sandbox"]
    if found != rung:
        node.destroy()
        pytest.skip(f"no {rung} on this machine: {found}")


def deployed(node: Daemon, app: StrayApp) -> int:
    """The pid that the app has in its own eyes."""
    done = node.run("deploy", "--manifest", str(app.manifest))
    assert done.status == 0, done.err
    wait_until("its strays are there", lambda: len(app.strays()) == STRAYS)
    status, _, body = node.get("stray")
    assert status == 200
    return int(body)


@pytest.mark.deadline(120)
@pytest.mark.parametrize("rung", RUNGS)
def test_a_daemon_killed_and_restarted_finds_its_app_under_the_same_pids_strays_included(
    folder: Path, rung: str
) -> None:
    node, app = new_home(folder, "n1", rung), write_stray_app(folder / "app")
    assert node.up().status == 0
    try:
        take_rung(node, rung)
        pid, strays = deployed(node, app), app.strays()
        shims = {found for found, where in leftovers.processes_of(node.home / "apps").items() if where == "cmdline"}
        node.kill_daemon()
        assert app.strays() == strays
        assert node.up().status == 0
        wait_until("it answers again", lambda: node.get("stray")[0] == 200)
        assert int(node.get("stray")[2]) == pid
        assert app.strays() == strays
        assert shims <= set(leftovers.processes_of(node.home / "apps"))
        done = node.run("apps", "remove", "stray")
        assert done.status == 0, done.err
        wait_until("nothing of a removed app is left", lambda: not app.strays())
    finally:
        node.destroy()


@pytest.mark.deadline(120)
@pytest.mark.parametrize("rung", RUNGS)
def test_a_daemon_that_stays_away_leaves_no_orphan(folder: Path, rung: str) -> None:
    """Here it may stay away for 4 s instead of 60."""
    node, app = new_home(folder, "n1", rung), write_stray_app(folder / "app")
    running = strace.start((), node.home, f"--home={node.home}", "--name=n1", module="tests.e2e.short_lease")
    try:
        assert running.wait_ready(), running.lines
        take_rung(node, rung)
        node.addresses = node.status()["node"]["addresses"]
        deployed(node, app)
        node_id = leftovers.node_id(node.home)
        assert node_id is not None
        node.kill_daemon()
        assert len(app.strays()) == STRAYS  # it waits, for that is what a restart needs
        wait_until(f"{LIMIT_S:g} s later nothing of it is left", lambda: not app.strays())
        wait_until("its shim is gone", lambda: not leftovers.processes_of(node.home / "apps"))
        wait_until("its control groups are gone", lambda: not leftovers.groups_of(node_id))
        told = json.loads(next(node.home.glob("apps/*/run/status.json")).read_text())
        assert told["exit"]["reason"] == f"no daemon for {LIMIT_S:g} s"
    finally:
        node.destroy()
        running.process.kill()
        running.process.wait(10)


@pytest.mark.deadline(120)
def test_deployed_through_a_node_that_is_then_destroyed_an_app_is_placed_elsewhere_from_the_second_copy(
    folder: Path,
) -> None:
    """And on a node that had nothing of it: of the two sealed copies of its source one is gone with the node."""
    manifest = folder / "app.yaml"
    text = EXAMPLE.read_text().replace("./src", str(EXAMPLE.parent / "src")).replace("replicas: 3", "replicas: 1")
    manifest.write_text(text + "constraints: {first: choice}\n")
    with cluster(folder) as mesh:
        keeper, doomed = mesh.start(2)
        assert doomed.run("nodes", "label", doomed.name, "first=choice").status == 0
        done = doomed.run("deploy", "--manifest", str(manifest))
        assert done.status == 0, done.err
        assert _runs_on(keeper) == {doomed.name}
        bare = mesh.add("--label", "first=choice")
        wait_until("three voters", lambda: len(keeper.status()["quorum"]["voters"]) == 3)
        assert [_copies(node) for node in (keeper, doomed, bare)] == [1, 1, 0]
        doomed.destroy()
        shutil.rmtree(doomed.home)
        wait_until("it is healthy on the node that had nothing of it", lambda: _runs_on(keeper) == {bare.name})
        for node in (keeper, bare):
            status, headers, _ = wait_until("it is served", lambda node=node: _served(node))
            assert (status, headers["x-replica"]) == (200, _replica(keeper))
        assert _copies(bare) == 1


def _copies(node: Daemon) -> int:
    return len(list((node.home / "bundles").glob("*.bundle")))


def _served(node: Daemon) -> tuple[int, dict[str, str], bytes] | None:
    answer = node.get("whereami", "/where")
    return answer if answer[0] == 200 else None


def _runs_on(node: Daemon) -> set[str]:
    replicas = node.client.get("/v1/apps/whereami")["placed"]
    return {replica["node"] for replica in replicas if replica["health"] == "healthy"}


def _replica(node: Daemon) -> str:
    return str(node.client.get("/v1/apps/whereami")["placed"][0]["id"])


@pytest.mark.root
@pytest.mark.deadline(120)
def test_a_daemon_with_real_time_priority_has_its_sandbox_and_keeps_its_priority_to_itself(folder: Path) -> None:
    if os.getuid() != 0 or shutil.which("chrt") is None:
        pytest.skip("needs root and chrt")
    node, app = Daemon("n1", folder / "n1"), write_stray_app(folder / "app")
    words = [sys.executable, "-m", "cli.main", "up", "--detach", "--json", "--name", "n1", "--home", str(node.home)]
    done = subprocess.run(["chrt", "-r", "1", *words], capture_output=True, text=True, timeout=60)
    try:
        assert done.returncode == 0, done.stderr
        node.addresses = json.loads(done.stdout)["addresses"]
        assert node.pid is not None
        assert os.sched_getscheduler(node.pid) == os.SCHED_RR
        assert node.status()["node"]["sandbox"] in RUNGS
        deployed(node, app)
        others = {*app.strays(), *leftovers.processes_of(node.home / "apps")} - {node.pid}
        assert others
        assert {os.sched_getscheduler(pid) for pid in others} == {os.SCHED_OTHER}
    finally:
        node.destroy()


def test_a_node_that_leaves_takes_its_apps_and_its_groups_along(folder: Path) -> None:
    node, app = Daemon("n1", folder / "n1"), write_stray_app(folder / "app")
    assert node.up().status == 0
    try:
        deployed(node, app)
        node_id = leftovers.node_id(node.home)
        assert node_id is not None
        done = node.run("down")
        assert done.status == 0, done.err
        wait_until("the daemon is gone", lambda: node.pid is None)
        wait_until("its apps are gone", lambda: not app.strays())
        wait_until("no process is left", lambda: not leftovers.processes_of(node.home))
        assert not leftovers.groups_of(node_id)
    finally:
        node.destroy()
