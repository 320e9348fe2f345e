"""Logs over real links: from any node, of the living and the gone."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest
import trio

from mesh.errors import UsageError
from scheduler.app_logs import APP_LOGS, LINES_MAX, AppLogs
from scheduler.runtimes.logs import log_path
from scheduler.runtimes.messages import LogsRequest
from scheduler.runtimes.shim_log import RotatedLog
from tests.unit.mesh.nodes import Node, make_nodes, running


def write(folder: Path, replica_id: str, *lines: str) -> RotatedLog:
    path = log_path(folder, "web", replica_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = RotatedLog(str(path), file_bytes_max=1 << 20, files=3, line_bytes_max=16384)
    for line in lines:
        log.feed("o", line.encode() + b"\n")
    return log


def serve(node: Node, folder: Path, living: frozenset[str]) -> AppLogs:
    logs = AppLogs(folder, node.peers, lambda: living)
    logs.register(node.server)
    return logs


def soon() -> float:
    return trio.current_time() + 20


async def test_every_node_is_asked_and_the_gone_are_told_from_the_living(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path / "keys", 2)
    logs = serve(one, tmp_path / "one", frozenset({"web-1"}))
    serve(two, tmp_path / "two", frozenset())
    write(tmp_path / "one", "web-1", "a", "b")
    write(tmp_path / "two", "web-2", "c")
    async with running([one, two]):
        request = LogsRequest("web", "", 100, follow=False)
        async with logs.gather(request, (one.id, two.id), deadline=soon()) as answers:
            pieces = [piece async for piece in answers]
    told = {
        (piece.node_id, piece.lines.replica_id, line.text, piece.lines.ended)
        for piece in pieces
        if piece.lines is not None
        for line in piece.lines.lines
    }
    assert told == {
        (one.id, "web-1", "a", False),
        (one.id, "web-1", "b", False),
        (two.id, "web-2", "c", True),
    }


async def test_a_node_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path / "keys", 2)
    logs = serve(one, tmp_path / "one", frozenset())
    write(tmp_path / "one", "web-1", "a")
    async with running([one, two]):
        two.stop()
        request = LogsRequest("web", "", 100, follow=False)
        deadline = trio.current_time() + 1
        async with logs.gather(request, (one.id, two.id), deadline=deadline) as answers:
            pieces = [piece async for piece in answers]
    assert [piece.node_id for piece in pieces if piece.error is not None] == [two.id]
    assert [piece.node_id for piece in pieces if piece.lines is not None] == [one.id]


async def test_a_follower_hears_new_lines_and_new_replicas(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path / "keys", 2)
    serve(one, tmp_path / "one", frozenset())
    log = write(tmp_path / "one", "web-1", "before")
    async with running([one, two]):
        request = LogsRequest("web", "", 100, follow=True)
        async with two.peers.stream(one.id, APP_LOGS, request, deadline=inf) as answers:
            assert (await anext(answers)).lines[0].text == "before"
            log.feed("e", b"after\n")
            later = (await anext(answers)).lines[0]
            assert (later.text, later.stream) == ("after", "stderr")
            write(tmp_path / "one", "web-2", "another")
            answer = await anext(answers)
            assert (answer.replica_id, answer.lines[0].text) == ("web-2", "another")


async def test_long_lines_fit_into_messages(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path / "keys", 2)
    serve(one, tmp_path / "one", frozenset())
    write(tmp_path / "one", "web-1", *["é" * 8000 for _ in range(60)])
    async with running([one, two]):
        request = LogsRequest("web", "web-1", 1000, follow=False)
        async with two.peers.stream(one.id, APP_LOGS, request, deadline=soon()) as answers:
            lines = [line async for answer in answers for line in answer.lines]
    assert len(lines) == 60


@pytest.mark.parametrize(
    "request_", [LogsRequest("../..", "", 1, False), LogsRequest("web", "../x", 1, False)], ids=["app", "replica"]
)
async def test_a_name_is_never_a_path(tmp_path: Path, request_: LogsRequest) -> None:
    one, two = make_nodes(tmp_path / "keys", 2)
    serve(one, tmp_path / "one", frozenset())
    async with running([one, two]):
        with pytest.raises(UsageError):
            async with two.peers.stream(one.id, APP_LOGS, request_, deadline=soon()) as answers:
                await anext(answers)


async def test_more_lines_than_there_may_be_are_refused(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path / "keys", 2)
    serve(one, tmp_path / "one", frozenset())
    async with running([one, two]):
        with pytest.raises(UsageError, match="lines"):
            request = LogsRequest("web", "", LINES_MAX + 1, follow=False)
            async with two.peers.stream(one.id, APP_LOGS, request, deadline=soon()) as answers:
                await anext(answers)
