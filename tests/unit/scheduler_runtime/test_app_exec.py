"""A command beside a replica, over real links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mesh.errors import MissingError, UsageError
from scheduler.app_exec import AppExec
from scheduler.runtimes.messages import ExecRequest
from tests.unit.mesh.nodes import make_nodes, running
from tests.unit.scheduler_runtime.node import MANIFEST, SERVER, LocalLedger, Node, Sources


@asynccontextmanager
async def one_replica_asked_from_elsewhere(tmp_path: Path) -> AsyncIterator[tuple[Node, AppExec, str]]:
    here, there = make_nodes(tmp_path / "keys", 2)
    sources, ledger = Sources(), LocalLedger()
    sources.bundles["source"] = {"app.py": SERVER}
    async with (
        running([here, there]),
        Node(tmp_path / "home", ledger, sources, KEY="hidden").running() as node,
    ):
        AppExec(node.runner.replica, here.peers).register(here.server)
        ledger.deploy(MANIFEST + "env: {MODE: prod}\nsecrets: [KEY]\n", "source")
        ledger.assign("web", 1)
        await node.until_healthy("web-1")
        yield node, AppExec(lambda name: None, there.peers), here.id
        await node.runner.stop_all(deadline=trio.current_time() + 30)


async def run(exec_: AppExec, node_id: str, *command: str, replica_id: str = "web-1") -> tuple[list[str], int | None]:
    said, code = [], None
    request = ExecRequest(replica_id, command)
    async with exec_.run(node_id, request, deadline=trio.current_time() + 30) as output:  # type: ignore[arg-type]
        async for piece in output:
            said += [f"{line.stream}: {line.text}" for line in piece.lines]
            code = piece.exit_code
    return said, code


async def test_a_command_sees_what_the_replica_sees_and_its_end_is_told(tmp_path: Path) -> None:
    async with one_replica_asked_from_elsewhere(tmp_path) as (node, exec_, node_id):
        script = "echo $MODE $KEY $FREECLOUD_REPLICA; ls; echo oops >&2; exit 7"
        said, code = await run(exec_, node_id, "sh", "-c", script)
        # Two pipes: the order holds within each.
        assert sorted(said) == ["stderr: oops", "stdout: app.py", "stdout: prod hidden web-1"]
        assert code == 7
        assert (await node.until_healthy("web-1")).restarts == 0  # the replica noticed nothing
        assert [path.name for path in (node.home / "apps" / "web-1").glob("exec-*")] == []


async def test_a_command_ends_with_whoever_asked(tmp_path: Path) -> None:
    async with one_replica_asked_from_elsewhere(tmp_path) as (node, exec_, node_id):
        request = ExecRequest("web-1", ("sh", "-c", "echo begun; sleep 600"))
        async with exec_.run(node_id, request, deadline=trio.current_time() + 30) as output:  # type: ignore[arg-type]
            piece = await anext(output)
            assert piece.lines[0].text == "begun"
        folders = [1]
        with trio.fail_after(20):
            while folders:
                folders = list((node.home / "apps" / "web-1").glob("exec-*"))
                await trio.sleep(0.02)


async def test_what_does_not_run_here_or_is_no_command_is_refused(tmp_path: Path) -> None:
    async with one_replica_asked_from_elsewhere(tmp_path) as (_, exec_, node_id):
        with pytest.raises(MissingError):
            await run(exec_, node_id, "true", replica_id="web-9")
        with pytest.raises(UsageError):
            await run(exec_, node_id)
