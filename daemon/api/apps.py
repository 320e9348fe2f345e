"""Apps: check a manifest, take a source, deploy and follow it to the end, scale, roll back, remove, explain, logs."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection
from typing import Any

import trio
from starlette.responses import Response

from consensus.records import App, Assignment, ReleaseState
from daemon.api.answers import LINES, Emit, Lines, document, when
from daemon.api.body import read_json
from daemon.api.clock import deadline_in
from daemon.api.operations import Call, Operation, schema
from daemon.api.patience import change_deadline
from daemon.api.views import app_document, observed, replica_document
from daemon.services import Services
from mesh.errors import ConflictError, MissingError, UsageError
from mesh.names import NodeId
from scheduler.manifest import parse
from scheduler.runtimes.logs import escape_controls
from scheduler.runtimes.messages import ExecRequest, LogLine, LogsRequest

MANIFEST = schema(("manifest",), manifest="string")
DEPLOY = schema(("manifest", "bundle"), manifest="string", bundle="string")
SCALE = schema(("replicas",), replicas="integer")
ROLLBACK = schema((), to="integer")
EXEC = schema(("command",), command="string[]", replica="string")

DEPLOY_ENTRY_TIMEOUT_S = 30.0
FOLLOW_MARGIN_S = 60.0
"""A deploy is followed for the rollout's own deadline and this much more: installing and copying come before it."""

LAST_LOG_LINES = 20
LOG_LINES_S = 5.0
EXEC_S_MAX = 300.0
LOG_LINES_MAX = 10_000

NAME = re.compile(r"[a-z0-9-]{1,60}")
"""Of an app or a replica; what is no name is never handed to another node as one."""


async def list_apps(call: Call) -> Response:
    names = sorted(call.services.ledger.state.apps)
    rows = [app_document(call.services, name) for name in names]
    return document({"apps": [{key: row[key] for key in row if key not in ("placed", "releases")} for row in rows]})


async def show_app(call: Call) -> Response:
    return document(app_document(call.services, call.path("name")))


async def why_app(call: Call) -> Response:
    told = call.services.scheduler.why(call.path("name"))
    words = await last_words(call.services, told.app, told.troubled)
    lines = [*told.lines, *(f"{replica_id} last wrote: {text}" for replica_id, text in words.items())]
    return document({"lines": lines})


async def check_manifest(call: Call) -> Response:
    """The one parser's verdict, before the caller packs anything."""
    manifest = parse((await read_json(call.request, MANIFEST))["manifest"])
    return document({"name": manifest.name, "source": manifest.source, "replicas": manifest.replicas})


async def plan_app(call: Call) -> Response:
    text = (await read_json(call.request, MANIFEST))["manifest"]
    plan = await call.services.scheduler.plan(text, deadline=change_deadline(call.services))
    return document(
        {
            "steps": [{"sign": step.sign, "text": step.text} for step in plan.steps],
            "reasons": list(plan.reasons),
        }
    )


async def take_bundle(call: Call) -> Response:
    """A source archive, streamed to disk under the hash of its bytes."""
    stored = await call.services.bundles.put(call.request.stream())
    return document({"bundle": stored.bundle, "bytes": stored.size_bytes})


async def deploy_app(call: Call) -> Response:
    wanted = await read_json(call.request, DEPLOY)
    parse(wanted["manifest"])  # a mistake is a plain 400, not a line in a stream
    return Lines(functools.partial(_deploy, call.services, wanted["manifest"], wanted["bundle"]))


async def _deploy(services: Services, manifest_text: str, bundle: str, emit: Emit) -> None:
    name = parse(manifest_text).name
    await emit({"text": f"{name}: placing its source on a second node"})
    deadline = change_deadline(services, DEPLOY_ENTRY_TIMEOUT_S)
    deployed = await services.scheduler.deploy(manifest_text, bundle, deadline=deadline)
    await emit(
        {
            "text": f"{name}: release {deployed.release} is agreed",
            "release": deployed.release,
            "holders": list(deployed.holders),
            "debts": list(deployed.debts),
        }
    )
    services.events.add("app.deployed", f"{name} release {deployed.release}")
    await follow(services, name, deployed.release, emit)


async def follow(services: Services, name: str, release: int, emit: Emit) -> None:
    """Tell how a rollout goes until it is healthy, rolled back, replaced or given up."""
    limit_s = parse(services.ledger.state.releases[name, release].manifest_text).rollout.deadline_s + FOLLOW_MARGIN_S
    deadline = deadline_in(limit_s)
    last = ""
    tried: set[str] = set()  # its replicas, past ones too: whatever others wrote says nothing of this release
    while trio.current_time() < deadline:
        seen = services.pulse.count
        tried |= {each.replica_id for each in _placed(services, name, release)}
        app = services.ledger.state.apps.get(name)
        if app is None:
            raise MissingError(f"{name} was removed meanwhile")
        final = _outcome(services, app, release)
        if final is not None:
            if final["outcome"] != "healthy":
                final["log"] = await last_lines(services, name, tried)
            await emit(final)
            return
        text = _progress(services, app)
        if text != last:
            last = text
            await emit({"text": text, "app": name, "release": release})
        with trio.move_on_at(deadline):
            await services.pulse.wait_after(seen)
    text = f"{name}: still not healthy; {last}"
    log = await last_lines(services, name, tried)
    await emit({"outcome": "unknown", "app": name, "release": release, "text": text, "log": log})


async def last_lines(services: Services, name: str, replicas: Collection[str]) -> list[str]:
    """The last lines that the newest of these replicas wrote, wherever it ran."""
    by_replica = await _tails(services, LogsRequest(name, "", LAST_LOG_LINES, False))
    told = [replica_id for replica_id in by_replica if replica_id in replicas]
    if not told:
        return []
    newest = max(told, key=lambda replica_id: int(replica_id.rpartition("-")[2]))
    return [escape_controls(line.text) for line in by_replica[newest][-LAST_LOG_LINES:]]


async def last_words(services: Services, name: str, replicas: Collection[str]) -> dict[str, str]:
    """The last line of each of these replicas that the app itself wrote."""
    if not replicas:
        return {}
    by_replica = await _tails(services, LogsRequest(name, "", LAST_LOG_LINES, False))
    said: dict[str, str] = {}
    for replica_id in replicas:
        own = [line for line in by_replica.get(replica_id, ()) if line.stream != "freecloud"]
        if own:
            said[replica_id] = escape_controls(own[-1].text)
    return said


async def _tails(services: Services, request: LogsRequest) -> dict[str, list[LogLine]]:
    """The ends of the logs of an app's replicas, as far as they can be had in a moment."""
    by_replica: dict[str, list[LogLine]] = {}
    deadline = deadline_in(LOG_LINES_S)
    with trio.move_on_at(deadline):
        async with services.logs.gather(request, _reachable(services), deadline=deadline) as pieces:
            async for piece in pieces:
                if piece.lines is not None:
                    by_replica.setdefault(piece.lines.replica_id, []).extend(piece.lines.lines)
    return by_replica


def _reachable(services: Services) -> list[NodeId]:
    """Members that may have logs and can be asked now."""
    members = services.ledger.state.active_members()
    return [node_id for node_id in members if observed(services, node_id).state in ("alive", "suspect")]


def _outcome(services: Services, app: App, release: int) -> dict[str, Any] | None:
    if app.current == release and app.state is ReleaseState.STABLE:
        addresses = app_document(services, app.name)["addresses"]
        text = f"{app.name}: release {release} is healthy"
        return {"outcome": "healthy", "app": app.name, "release": release, "addresses": addresses, "text": text}
    if app.current == release and app.state is ReleaseState.ROLLING:
        return None
    if app.current > release:
        raise ConflictError(f"{app.name} was deployed again meanwhile", why=f"release {app.current} is current")
    why = app.reason or f"release {release} did not become healthy"
    if app.current == release:
        earlier = app.previous_stable not in (0, release)
        kept = "it stays, its manifest says rollback: false" if earlier else "there is no earlier release to return to"
        text = f"{app.name}: {why}; {kept}"
        return {"outcome": "failed", "app": app.name, "release": release, "text": text}
    text = f"{app.name}: {why}; rolled back to release {app.current}"
    return {"outcome": "rolled-back", "app": app.name, "release": release, "text": text}


def _placed(services: Services, name: str, release: int) -> list[Assignment]:
    assignments = services.ledger.state.assignments.values()
    return [each for each in assignments if (each.app, each.release) == (name, release)]


def _progress(services: Services, app: App) -> str:
    placed = [replica_document(services, assignment) for assignment in _placed(services, app.name, app.current)]
    healthy = sum(replica["health"] == "healthy" for replica in placed)
    others = sorted({replica["health"] for replica in placed} - {"healthy"})
    return f"{app.name}: {healthy} of {app.replicas} replicas healthy" + (f" ({', '.join(others)})" if others else "")


async def scale_app(call: Call) -> Response:
    wanted = await read_json(call.request, SCALE)
    deadline = change_deadline(call.services)
    await call.services.scheduler.scale(call.path("name"), wanted["replicas"], deadline=deadline)
    return document({"name": call.path("name"), "replicas": wanted["replicas"]})


async def rollback_app(call: Call) -> Response:
    wanted = await read_json(call.request, ROLLBACK)
    deadline = change_deadline(call.services)
    release = await call.services.scheduler.rollback(call.path("name"), wanted.get("to"), deadline=deadline)
    return document({"name": call.path("name"), "release": release})


async def remove_app(call: Call) -> Response:
    await call.services.scheduler.remove(call.path("name"), deadline=change_deadline(call.services))
    call.services.events.add("app.removed", call.path("name"))
    return document({"name": call.path("name")})


async def app_logs(call: Call) -> Response:
    """Of an app that was removed, too: its logs stay for a day."""
    name, replica_id = call.path("name"), call.query("replica")
    if not NAME.fullmatch(name):
        raise MissingError(f"no app {name!r}", hint="see `freecloud apps list`")
    if replica_id and not NAME.fullmatch(replica_id):
        raise MissingError(f"{name} has no replica {replica_id!r}", hint=f"see `freecloud apps show {name}`")
    request = LogsRequest(name, replica_id, _count(call.query("lines", "100")), call.query("follow") == "1")
    if request.follow and name not in call.services.ledger.state.apps:
        raise MissingError(f"no app {name!r}", why="only what runs can be followed", hint="see `freecloud apps list`")
    return Lines(functools.partial(_logs, call.services, request))


async def _logs(services: Services, request: LogsRequest, emit: Emit) -> None:
    deadline = math.inf if request.follow else deadline_in(LOG_LINES_S)
    names = {member.node_id: member.name for member in services.ledger.state.members.values()}
    state = services.ledger.state
    app = request.app in state.apps
    found = request.replica_id in state.assignments if request.replica_id else app
    async with services.logs.gather(request, _reachable(services), deadline=deadline) as pieces:
        async for piece in pieces:
            if piece.error is not None:
                await emit({"replica": names[piece.node_id], "at": "", "text": f"no logs from there: {piece.error}"})
            for line in piece.lines.lines if piece.lines else ():
                found = True
                replica_id = piece.lines.replica_id if piece.lines else ""
                text = escape_controls(line.text)
                await emit({"replica": replica_id, "at": when(line.at_ms), "stream": line.stream, "text": text})
    if not found and app:
        hint = f"see `freecloud apps show {request.app}`"
        raise MissingError(f"{request.app} has no replica {request.replica_id!r}, and no logs of one", hint=hint)
    if not found:
        raise MissingError(f"no app {request.app!r}, and no logs of one", hint="see `freecloud apps list`")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8) or not 1 <= int(text) <= LOG_LINES_MAX:
        raise UsageError(f"lines is 1 to {LOG_LINES_MAX}, not {text!r}")
    return int(text)


async def exec_app(call: Call) -> Response:
    wanted = await read_json(call.request, EXEC)
    name = call.path("name")
    app_document(call.services, name)
    if not wanted["command"] or any("\0" in word for word in wanted["command"]):
        raise UsageError("a command has one or more words", why="none of them holds a NUL")
    placed = sorted(
        assignment.replica_id
        for assignment in call.services.ledger.state.assignments.values()
        if assignment.app == name
    )
    replica_id = wanted.get("replica") or next(iter(placed), "")
    if replica_id not in placed:
        raise MissingError(f"{name} has no replica {replica_id!r}", hint=f"see `freecloud apps show {name}`")
    request = ExecRequest(replica_id, tuple(wanted["command"]))
    return Lines(functools.partial(_execute, call.services, request))


async def _execute(services: Services, request: ExecRequest, emit: Emit) -> None:
    node_id = services.ledger.state.assignments[request.replica_id].node
    async with services.exec.run(node_id, request, deadline=deadline_in(EXEC_S_MAX)) as pieces:
        async for piece in pieces:
            for line in piece.lines:
                await emit({"stream": line.stream, "text": escape_controls(line.text)})
            if piece.exit_code is not None:
                await emit({"exit_code": piece.exit_code})


OPERATIONS = (
    Operation("GET", "/v1/apps", "read", "every app", list_apps),
    Operation("POST", "/v1/apps/check", "deploy", "check a manifest", check_manifest, MANIFEST),
    Operation("POST", "/v1/apps/plan", "deploy", "what a deploy would do, and why", plan_app, MANIFEST),
    Operation("POST", "/v1/bundles", "deploy", "hand over a source archive", take_bundle),
    Operation("POST", "/v1/apps", "deploy", "deploy and follow to the end", deploy_app, DEPLOY, LINES),
    Operation("GET", "/v1/apps/{name}", "read", "one app", show_app),
    Operation("GET", "/v1/apps/{name}/why", "read", "why its replicas are where they are", why_app),
    Operation("POST", "/v1/apps/{name}/scale", "deploy", "change the number of replicas", scale_app, SCALE),
    Operation("POST", "/v1/apps/{name}/rollback", "deploy", "return to an earlier release", rollback_app, ROLLBACK),
    Operation("DELETE", "/v1/apps/{name}", "deploy", "stop it everywhere and forget it", remove_app),
    Operation("GET", "/v1/apps/{name}/logs", "read", "what its replicas wrote", app_logs, None, LINES),
    Operation("POST", "/v1/apps/{name}/exec", "admin", "run a command beside a replica", exec_app, EXEC, LINES),
)
