"""The runner: what the ledger assigns runs, once, through daemons' deaths, and nothing else does."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import trio

from consensus.ledger_entries import MarkBack, MarkOut
from gossip.record import ReplicaHealth
from scheduler.runtimes import procfs
from scheduler.runtimes.logs import log_path, read_tail
from tests.unit.scheduler_runtime.node import MANIFEST, SERVER, LocalLedger, Node, Sources, get


@pytest.fixture
def ledger() -> LocalLedger:
    return LocalLedger()


@pytest.fixture
def sources() -> Sources:
    made = Sources()
    made.bundles["source"] = {"app.py": SERVER}
    return made


async def end(node: Node) -> None:
    await node.runner.stop_all(deadline=trio.current_time() + 30)


async def test_an_assigned_replica_runs_becomes_healthy_and_is_reported(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "source")
        assert ledger.assign("web", 1) == "web-1"
        report = await node.until_healthy("web-1")
        environment = json.loads(await get(report.port, "/env"))
        assert report.assignment_index == ledger.state.assignments["web-1"].index
        assert node.runner.local_port("web-1", report.assignment_index) == report.port
        assert node.runner.local_port("web-1", report.assignment_index + 1) is None
        await end(node)
    told = {name: value for name, value in environment.items() if name.startswith("FREECLOUD_")}
    told.pop("FREECLOUD_RUN")
    assert told == {
        "FREECLOUD_APP": "web",
        "FREECLOUD_ASSIGNMENT": str(report.assignment_index),
        "FREECLOUD_NODE": "node1",
        "FREECLOUD_RELEASE": "1",
        "FREECLOUD_REPLICA": "web-1",
        "FREECLOUD_ZONE": "zone1",
    }
    assert environment["PORT"] == str(report.port)


async def test_an_unassigned_replica_ends_and_only_its_log_stays(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "source")
        ledger.assign("web", 1)
        report = await node.until_healthy("web-1")
        pid = int(await get(report.port, "/"))
        ledger.unassign("web-1")
        reports = await node.until(lambda reports: reports[0].health is ReplicaHealth.STOPPING)
        assert reports[0].port == report.port  # it still serves those who have not heard
        await node.until_gone()
    assert procfs.start_time_of(pid) == 0
    assert not (tmp_path / "apps" / "web-1").exists()
    records, _ = read_tail(log_path(tmp_path / "logs", "web", "web-1"), 100, 1 << 20)
    assert "served /" in [record.text for record in records]


async def test_a_daemon_that_goes_leaves_its_apps_and_the_next_one_adopts_them(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    ledger.deploy(MANIFEST, "source")
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.assign("web", 1)
        before = await node.until_healthy("web-1")
        pid = await get(before.port, "/")
    assert await get(before.port, "/") == pid
    async with Node(tmp_path, ledger, sources).running() as node:
        after = await node.until_healthy("web-1")
        assert await get(after.port, "/") == pid
        assert (after.port, after.restarts) == (before.port, 0)
        await end(node)


async def test_what_was_taken_away_while_the_daemon_was_gone_is_ended(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    ledger.deploy(MANIFEST, "source")
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.assign("web", 1)
        report = await node.until_healthy("web-1")
        pid = int(await get(report.port, "/"))
    ledger.unassign("web-1")
    async with Node(tmp_path, ledger, sources).running() as node:
        await node.until_gone()
    assert procfs.start_time_of(pid) == 0
    assert not (tmp_path / "apps" / "web-1").exists()


async def test_a_daemon_with_an_old_copy_of_the_ledger_leaves_its_apps_alone(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    ledger.deploy(MANIFEST, "source")
    old = LocalLedger()
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.assign("web", 1)
        await node.until_healthy("web-1")
    assert old.state.applied < ledger.state.assignments["web-1"].index
    async with Node(tmp_path, old, sources).running() as node:
        report = await node.until_healthy("web-1")
        assert await get(report.port, "/")
        await end(node)


async def test_an_app_that_crashes_is_started_again(tmp_path: Path, ledger: LocalLedger, sources: Sources) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "source")
        ledger.assign("web", 1)
        report = await node.until_healthy("web-1")
        await get(report.port, "/crash")
        reports = await node.until(lambda reports: reports[0].health is ReplicaHealth.BACKING_OFF)
        assert re.fullmatch(r"exit status 9; starts again in \d+ s", reports[0].detail)
        assert reports[0].port == 0
        await node.until_healthy("web-1", restarts=1)
        await end(node)


async def test_an_app_that_stays_unhealthy_is_unrouted_and_then_started_again(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "source")
        ledger.assign("web", 1)
        report = await node.until_healthy("web-1")
        await get(report.port, "/sick")
        reports = await node.until(lambda reports: reports[0].health is ReplicaHealth.UNHEALTHY)
        assert reports[0].detail == "GET / answered 500"
        await node.until(lambda reports: reports[0].health is ReplicaHealth.BACKING_OFF)
        (tmp_path / "apps" / "web-1" / "work" / "sick").unlink()
        await node.until_healthy("web-1", restarts=1)
        await end(node)


async def test_an_app_gives_up_when_its_manifest_says_so(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    manifest = MANIFEST.replace("python app.py", "exit 3").replace("100ms..1s", "100ms..1s, give_up_after: 1")
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(manifest, "source")
        ledger.assign("web", 1)
        reports = await node.until(lambda reports: bool(reports) and reports[0].health is ReplicaHealth.FAILED)
        assert reports[0].detail == "given up: exit status 3"
        await end(node)


async def test_a_source_that_nobody_has_yet_is_waited_for(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "later")
        ledger.assign("web", 1)
        reports = await node.until(lambda reports: bool(reports) and reports[0].health is ReplicaHealth.BACKING_OFF)
        assert reports[0].detail.startswith("nobody has the bundle later; ")
        sources.bundles["later"] = {"app.py": SERVER}
        await node.until_healthy("web-1")
        await end(node)


async def test_a_replica_retired_before_it_ran_leaves_nothing(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "later")
        ledger.assign("web", 1)
        await node.until(lambda reports: bool(reports) and reports[0].health is ReplicaHealth.BACKING_OFF)
        ledger.unassign("web-1")
        await node.until_gone()
    assert not (tmp_path / "apps" / "web-1").exists()


async def test_a_lost_shim_takes_its_app_along_and_the_replica_starts_anew(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "source")
        ledger.assign("web", 1)
        report = await node.until_healthy("web-1")
        old_pid = int(await get(report.port, "/"))
        status = json.loads((tmp_path / "apps" / "web-1" / "run" / "status.json").read_text())
        os.kill(status["shim_pid"], signal.SIGKILL)
        again = await node.until_healthy("web-1", restarts=1)
        assert int(await get(again.port, "/")) != old_pid
        assert procfs.start_time_of(old_pid) == 0
        await end(node)


async def test_secrets_reach_the_app_by_file_and_variable_and_no_disk(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    manifest = MANIFEST + "secrets: [API_KEY]\n"
    node = Node(tmp_path, ledger, sources, API_KEY="hidden-in-memory")
    async with node.running():
        ledger.deploy(manifest, "source")
        ledger.assign("web", 1)
        report = await node.until_healthy("web-1")
        environment = json.loads(await get(report.port, "/env"))
        folder = Path(environment["SECRETS_DIR"])
        assert environment["API_KEY"] == "hidden-in-memory"
        assert (folder / "API_KEY").read_text() == "hidden-in-memory"
        assert (folder / "API_KEY").stat().st_mode & 0o777 == 0o400
        await end(node)
    assert not folder.exists()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hidden-in-memory" not in written


async def test_an_exclusive_replica_starts_only_on_the_leaders_word(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    ledger.has_quorum = False
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST + "exclusive: true\n", "source")
        ledger.assign("web", 1)
        reports = await node.until(lambda reports: bool(reports) and reports[0].health is ReplicaHealth.BACKING_OFF)
        assert reports[0].detail.startswith("no quorum; ")
        ledger.has_quorum = True
        await node.until_healthy("web-1")
        await end(node)


async def test_a_node_that_was_given_up_ends_its_exclusive_replicas_and_keeps_the_others(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST + "exclusive: true\n", "source")
        ledger.assign("web", 1)
        ledger.deploy(MANIFEST.replace("name: web", "name: many"), "source")
        ledger.assign("many", 1)
        await node.until_healthy("web-1")
        await node.until_healthy("many-1")
        ledger.say(MarkOut(ledger.me.node_id, "down too long"))
        reports = await node.until(lambda reports: len(reports) == 1)
        assert reports[0].replica_id == "many-1"
        ledger.say(MarkBack(ledger.me.node_id))
        await node.until_healthy("web-1")
        await end(node)


async def test_ordinary_replicas_start_and_go_on_without_a_quorum(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    ledger.has_quorum = False
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST, "source")
        ledger.assign("web", 1)
        await node.until_healthy("web-1")
        await end(node)


async def test_an_app_that_floods_the_disk_is_ended_and_starts_with_an_empty_one(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    flood = """
import os
if not os.path.exists("../flooded"):
    for number in range(20):
        open(f"flood-{number}", "wb").write(bytes(1 << 20))
"""
    sources.bundles["flood"] = {"app.py": flood + SERVER}
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST + "resources: {disk: 10Mi}\n", "flood")
        ledger.assign("web", 1)
        reports = await node.until(lambda reports: bool(reports) and reports[0].health is ReplicaHealth.BACKING_OFF)
        assert "MiB of disk used, 10 MiB allowed" in reports[0].detail
        (tmp_path / "apps" / "web-1" / "flooded").touch()
        await node.until_healthy("web-1", restarts=1)
        assert not (tmp_path / "apps" / "web-1" / "work" / "flood-1").exists()
        await end(node)


async def test_a_folder_without_a_readable_record_is_cleaned_up(
    tmp_path: Path, ledger: LocalLedger, sources: Sources
) -> None:
    ledger.deploy(MANIFEST, "source")
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.assign("web", 1)
        report = await node.until_healthy("web-1")
        pid = int(await get(report.port, "/"))
    (tmp_path / "apps" / "web-1" / "record.bin").write_bytes(b"damaged")
    async with Node(tmp_path, ledger, sources).running() as node:
        report = await node.until_healthy("web-1")
        assert int(await get(report.port, "/")) != pid
        assert procfs.start_time_of(pid) == 0
        await end(node)
