"""The life of an app as its users see it: deployed, updated, failing, explained, scaled, moved and removed.

One mesh of three for all of them; each test has an app of its own. Every question goes to another node than the one
that the change went to.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, Daemon, Done, cluster, wait_until

SOON = {"deadline": "10s"}
"""For a rollout that is to fail: time enough to start and fail a few times, on however busy a machine. Those that are
to succeed have the usual minute."""

PROGRAM = """
import http.server, os, signal, sys, threading

mode = os.environ.get("MODE", "")
print(os.environ["FREECLOUD_REPLICA"], "starts as", mode, flush=True)
if mode == "crash":
    sys.exit("boom: no database")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/quit":
            os._exit(5)
        body = os.environ.get(self.path[1:], mode).encode()
        self.send_response(500 if mode == "sick" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *arguments: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.1)
print(os.environ["FREECLOUD_REPLICA"], "ends", flush=True)
"""

pytestmark = pytest.mark.deadline(120)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    folder.chmod(0o711)  # an app's own user passes through
    try:
        with cluster(folder / "mesh") as made:
            made.start(3)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class App:
    """One app of a test, removed afterwards."""

    def __init__(self, mesh: Cluster, folder: Path, name: str) -> None:
        self.name = name
        self.one, self.other, self.third = mesh.nodes
        self._folder = folder
        (folder / "src").mkdir(parents=True)
        (folder / "src" / "app.py").write_text(PROGRAM)

    def manifest(self, mode: str, **changes: Any) -> str:
        told: dict[str, Any] = {
            "name": self.name,
            "source": "./src",
            "command": "python3 app.py",
            "env": {"MODE": mode},
            "resources": {"cpu": 0.25, "memory": "64Mi", "disk": "16Mi"},
            "health": {"path": "/", "interval": "500ms"},
            "restart": {"backoff": "200ms..1s"},
        }
        path = self._folder / "app.yaml"
        path.write_text(json.dumps(told | changes))
        return str(path)

    def deploy(self, mode: str, *flags: str, **changes: Any) -> Done:
        return self.one.run("deploy", "--manifest", self.manifest(mode, **changes), *flags)

    def apps(self, verb: str, *words: str, node: Daemon | None = None) -> Done:
        return (node or self.other).run("apps", verb, self.name, *words)

    def show(self) -> dict[str, Any]:
        told: dict[str, Any] = self.other.client.get(f"/v1/apps/{self.name}")
        return told

    def placed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.show()["placed"]
        return found

    def until_settled(self, replicas: int, release: int) -> list[dict[str, Any]]:
        """Wait for so many healthy replicas of this release, and for no other."""

        def settled() -> bool:
            told = self.show()
            good = [each for each in told["placed"] if each["health"] == "healthy" and each["release"] == release]
            return told["state"] == "stable" and len(good) == len(told["placed"]) == replicas

        wait_until(f"{replicas} replicas of release {release}", settled)
        return self.placed()

    @contextmanager
    def following(self) -> Iterator[list[str]]:
        """The lines that `apps logs -f` prints, as they come."""
        words = [sys.executable, "-m", "cli.main", "apps", "logs", self.name, "-f", "--home", str(self.other.home)]
        lines: list[str] = []
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reader = threading.Thread(target=lines.extend, args=(process.stdout,))
            reader.start()
            try:
                yield lines
            finally:
                process.kill()
                reader.join(30)

    def ask(self, path: str = "/") -> tuple[int, str]:
        status, _, body = self.third.get(self.name, path)
        return status, body.decode()

    def until_answered(self, text: str, path: str = "/") -> None:
        """By a node that was not told of the change, and hears of it a moment later."""
        wait_until(f"the answer {text!r}", lambda: self.ask(path) == (200, text))


NUMBERS = itertools.count(1)


@pytest.fixture
def app(mesh: Cluster, tmp_path: Path) -> Iterator[App]:
    made = App(mesh, tmp_path, f"app{next(NUMBERS)}")
    yield made
    made.one.run("apps", "remove", made.name)


def worked(done: Done) -> str:
    assert done.status == 0, done.err
    return done.out


def test_a_new_release_takes_over_once_it_is_healthy(app: App) -> None:
    out = worked(app.deploy("first", replicas=2))
    assert f"http://{app.name}.localhost:" in out
    app.until_answered("first")
    before = {each["id"] for each in app.until_settled(2, release=1)}
    worked(app.deploy("second", replicas=2))
    after = app.until_settled(2, release=2)
    assert not before & {each["id"] for each in after}
    app.until_answered("second")


@dataclass(frozen=True, slots=True)
class Failure:
    """A deploy that was to fail, and what ran before it."""

    app: App
    before: set[str]
    done: Done


@pytest.fixture(scope="module")
def failures(mesh: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Failure]:
    """All at once, for each takes its whole deadline."""
    tmp_path_factory.getbasetemp()  # made once, before threads would make it at the same time

    def fail(name: str, mode: str, first: bool, changes: dict[str, Any]) -> Failure:
        app = App(mesh, tmp_path_factory.mktemp(name) / "app", name)
        before: set[str] = set()
        if not first:
            worked(app.deploy("good", replicas=2))
            before = {each["id"] for each in app.until_settled(2, release=1)}
        return Failure(app, before, app.deploy(mode, replicas=2, rollout=SOON, **changes))

    cases: list[tuple[str, str, bool, dict[str, Any]]] = [
        # Few restarts: one that fails often is moved, and its successor has not failed yet when the verdict is made.
        ("crash", "crash", False, {"restart": {"backoff": "4s..5s"}}),
        ("sick", "sick", False, {}),
        ("first", "crash", True, {}),
        ("nowhere", "good", True, {"constraints": {"gpu": "yes"}}),
    ]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        made = list(pool.map(lambda case: fail(*case), cases))
    return {failure.app.name: failure for failure in made}


@pytest.mark.parametrize(
    ("name", "why", "last"),
    [("crash", "exit status 1", "boom: no database"), ("sick", "GET / answered 500", "starts as sick")],
)
def test_a_release_that_never_gets_healthy_takes_nothing_away_and_says_why(
    failures: dict[str, Failure], name: str, why: str, last: str
) -> None:
    app, done = failures[name].app, failures[name].done
    assert (done.status, done.out) == (1, "")
    (verdict,) = [line for line in done.err.splitlines() if line.startswith("freecloud: ")]
    assert "release 2 failed" in verdict
    assert why in verdict
    assert verdict.endswith("rolled back to release 1")
    assert any(line.startswith("  | ") and last in line for line in done.err.splitlines())
    assert {each["id"] for each in app.until_settled(2, release=1)} == failures[name].before
    app.until_answered("good")
    assert "release 2 failed" in worked(app.apps("why"))


def test_a_first_release_that_fails_stays_and_is_explained_by_its_last_words(failures: dict[str, Failure]) -> None:
    app, done = failures["first"].app, failures["first"].done
    assert done.status == 1
    assert "there is no earlier release to return to" in done.err
    wait_until("all to know", lambda: app.show()["state"] == "failed")

    def explained() -> bool:
        told = worked(app.apps("why"))
        return "backing-off, restarted" in told and "starts again in" in told and "last wrote: boom" in told

    wait_until("a crash loop to be explained", explained)
    back = app.apps("rollback")
    assert back.status == 3
    assert "no earlier stable release" in back.err
    assert app.ask()[0] == 503
    worked(app.deploy("good"))
    app.until_answered("good")


def test_a_plan_shows_the_whole_rollout_and_changes_nothing(app: App) -> None:
    told = worked(app.deploy("good", "--plan", replicas=2))
    assert [line[0] for line in told.splitlines()] == ["~", "+", "+"]
    assert app.apps("show").status == 3
    worked(app.deploy("good", replicas=2))
    before = app.until_settled(2, release=1)
    told = worked(app.deploy("next", "--plan", replicas=2))
    assert [line[0] for line in told.splitlines()] == ["~", "+", "-", "+", "-"]
    after = app.show()
    assert (after["release"], len(after["releases"])) == (1, 1)
    assert [each["id"] for each in after["placed"]] == [each["id"] for each in before]


def test_a_constraint_that_nobody_meets_is_told_by_plan_deploy_and_why(failures: dict[str, Failure]) -> None:
    app, done = failures["nowhere"].app, failures["nowhere"].done
    assert done.status == 1
    assert "no label gpu=yes" in done.err
    assert "no label gpu=yes" in worked(app.apps("why"))
    told = app.deploy("good", "--plan", constraints={"gpu": "yes"})
    assert told.status == 0
    assert "no label gpu=yes" in told.err
    worked(app.one.run("nodes", "label", "n3", "gpu=yes"))
    assert {each["node"] for each in app.until_settled(2, release=1)} == {"n3"}


def test_rollback_returns_to_the_last_stable_release_or_to_a_named_one(app: App) -> None:
    worked(app.deploy("first"))
    worked(app.deploy("second"))
    worked(app.deploy("third"))
    app.until_settled(1, release=3)
    assert "returns to release 2" in worked(app.apps("rollback"))
    app.until_settled(1, release=2)
    app.until_answered("second")
    worked(app.apps("rollback", "--to", "1"))
    app.until_settled(1, release=1)
    app.until_answered("first")
    assert app.apps("rollback", "--to", "1").status == 4
    assert app.apps("rollback", "--to", "9").status == 3


def test_scaling_goes_up_and_down_to_none_and_back(app: App) -> None:
    worked(app.deploy("good"))
    app.until_settled(1, release=1)
    worked(app.apps("scale", "--replicas", "3"))
    assert len({each["node"] for each in app.until_settled(3, release=1)}) == 3
    worked(app.apps("scale", "--replicas", "0"))
    wait_until("none left", lambda: not app.placed())
    wait_until("all to know", lambda: app.ask()[0] == 503)
    worked(app.apps("scale", "--replicas", "1"))
    app.until_settled(1, release=1)
    app.until_answered("good")
    assert app.apps("scale", "--replicas", "-1").status == 2


def test_what_was_removed_is_gone_but_for_its_logs(app: App) -> None:
    worked(app.deploy("good"))
    (only,) = app.until_settled(1, release=1)
    worked(app.apps("remove"))
    wait_until("all to know", lambda: app.apps("show", node=app.third).status == 3)
    wait_until("its last words", lambda: f"{only['id']} ends" in worked(app.apps("logs", node=app.third)))
    for node in (app.one, app.other, app.third):
        assert f"{only['id']} starts as good" in worked(app.apps("logs", node=node))
    again = app.apps("remove")
    assert again.status == 3
    assert "freecloud apps list" in again.err
    assert app.third.get(app.name)[0] == 404


def test_logs_are_told_by_replica(app: App) -> None:
    worked(app.deploy("good", replicas=2))
    ids = {each["id"] for each in app.until_settled(2, release=1)}
    lines = [json.loads(line) for line in worked(app.apps("logs", "--json")).splitlines()]
    assert {line["replica"] for line in lines if "starts as good" in line["text"]} == ids
    one = sorted(ids)[0]
    told = [json.loads(line) for line in worked(app.apps("logs", "--json", "--replica", one)).splitlines()]
    assert {line["replica"] for line in told} == {one}


def test_logs_are_followed_on_every_node_replicas_that_come_later_too(app: App) -> None:
    worked(app.deploy("good"))
    (first,) = app.until_settled(1, release=1)
    with app.following() as lines:
        wait_until("what was written before", lambda: any(f"{first['id']} starts" in line for line in lines))
        worked(app.apps("scale", "--replicas", "3"))
        ids = {each["id"] for each in app.until_settled(3, release=1)}
        wait_until("what newer ones wrote", lambda: all(any(f"{one} starts" in line for line in lines) for one in ids))


def test_a_command_runs_beside_a_replica_wherever_it_is(app: App) -> None:
    worked(app.deploy("good"))
    (only,) = app.until_settled(1, release=1)
    for node in (app.one, app.other, app.third):
        done = app.apps("exec", "--", "sh", "-c", "echo $FREECLOUD_REPLICA; echo aside >&2", node=node)
        assert (done.status, done.out.strip()) == (0, only["id"])
        assert "aside" in done.err
    failed = app.apps("exec", "--", "sh", "-c", "exit 7")
    assert (failed.status, failed.err) == (1, "freecloud: the command ended with exit status 7\n")
    assert "no such program" in app.apps("exec", "--", "nope").err


def test_a_secret_is_in_the_environment_and_an_unset_one_stops_the_deploy(app: App) -> None:
    name = f"KEY_{app.name.upper()}"
    missing = app.deploy("good", secrets=[name])
    assert missing.status == 3
    assert f"freecloud secrets set {name}" in missing.err
    worked(app.other.run("secrets", "set", name, stdin="a quiet word"))
    worked(app.deploy("good", secrets=[name]))
    app.until_answered("a quiet word", f"/{name}")


def test_a_replica_that_ends_is_started_again_and_counted(app: App) -> None:
    worked(app.deploy("good"))
    app.until_answered("good")
    assert app.ask("/quit")[0] == 502
    wait_until("it to be back", lambda: [each["restarts"] for each in app.placed()] == [1])
    app.until_answered("good")
    assert "exit status 5" in worked(app.apps("logs"))


def test_one_that_keeps_ending_is_given_up_when_the_manifest_says_so(app: App) -> None:
    restart = {"backoff": "100ms..200ms", "give_up_after": 2}
    assert app.deploy("crash", restart=restart, rollout={"deadline": "1s"}).status == 1
    wait_until("it is given up", lambda: "given up: exit status 1" in worked(app.apps("why")))


def test_an_exclusive_app_has_one_replica_and_two_releases_of_it_never_overlap(app: App) -> None:
    worked(app.deploy("first", exclusive=True))
    (before,) = app.until_settled(1, release=1)
    assert app.apps("scale", "--replicas", "2").status == 2
    worked(app.deploy("second", exclusive=True))
    (after,) = app.until_settled(1, release=2)
    app.until_answered("second")
    lines = [json.loads(line) for line in worked(app.apps("logs", "--json")).splitlines()]
    ended = [line["at"] for line in lines if line["replica"] == before["id"] and line["text"].startswith("ended")]
    began = [line["at"] for line in lines if line["replica"] == after["id"] and line["text"].startswith("started")]
    assert max(ended) <= min(began)
