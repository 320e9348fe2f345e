"""The hostile example beside a neighbour on one real node, on a rung of the sandbox's ladder or without any."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.home import Home
from scheduler.replica_files import read_records
from scheduler.runner import folders_under
from scheduler.runtimes.process import read_record
from scheduler.runtimes.runtime import RunFacts
from tests.e2e.cluster import Daemon, wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hostile"

NEIGHBOUR = """\
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A node with a neighbour that serves, where the hostile app will be deployed."""

    node: Daemon
    folder: Path

    def deploy_neighbour(self) -> None:
        source = self.folder / "neighbour"
        source.mkdir()
        (source / "app.py").write_text(NEIGHBOUR)
        (source / "data").write_text("the neighbour's")
        manifest = self.folder / "neighbour.yaml"
        manifest.write_text("name: neighbour\nsource: ./neighbour\ncommand: python3 app.py\nhealth: {path: /}\n")
        self._deploy(manifest)

    def deploy_hostile(self, aims: dict[str, str]) -> None:
        """As it stands in the example, but for what it is told to aim at."""
        manifest = self.folder / "hostile.yaml"
        text = (EXAMPLE / "app.yaml").read_text().replace("./src", str(EXAMPLE / "src"))
        manifest.write_text(text + f"env: {json.dumps(aims)}\n")
        self._deploy(manifest)

    def aims(self, others: dict[str, str]) -> dict[str, str]:
        """What to aim at: the node itself, its neighbour, and the listeners that a test made."""
        run = self.run_of("neighbour")
        record = read_records(folders_under(self.node.home))[run.replica]
        assert record is not None
        ports = {name: self.node.addresses[where].rpartition(":")[2] for name, where in REAL.items()}
        ports["neighbour"] = str(record.port)
        real = ",".join(f"{name}={port}" for name, port in ports.items())
        return {
            **others,
            "HOSTILE_PORTS": f"{others['HOSTILE_PORTS']},{real}",
            "HOSTILE_HOME": str(self.node.home),
            "HOSTILE_NEIGHBOUR": str(run.folder),
            "HOSTILE_DAEMON": str(self.node.pid),
            "HOSTILE_OTHER": str(run.facts.group),
        }

    def run_of(self, app: str) -> LiveRun:
        """The replica of this app on this node, and the run that it has now."""
        [placed] = self.node.client.get(f"/v1/apps/{app}")["placed"]
        folder = Home(self.node.home).apps / placed["id"]
        facts = read_record(folder / "run")
        assert facts is not None
        return LiveRun(placed["id"], folder, facts)

    def placed(self, app: str) -> dict[str, Any]:
        [placed] = self.node.client.get(f"/v1/apps/{app}")["placed"]
        return dict(placed)

    def tries(self) -> dict[str, str]:
        status, _, body = self.node.get("hostile", "/tries", timeout=60)
        assert status == 200, body
        results: dict[str, str] = json.loads(body)
        return results

    def make_trouble(self, what: str) -> None:
        host, _, port = self.node.addresses["ingress"].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        try:
            connection.request("POST", f"/{what}", body=b"", headers={"Host": f"hostile.localhost:{port}"})
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"as you wish\n")
        finally:
            connection.close()

    def wait_hostile_serves(self) -> None:
        wait_until("the hostile app serves again", lambda: self.node.get("hostile", "/health")[0] == 200)

    def _deploy(self, manifest: Path) -> None:
        done = self.node.run("deploy", "--manifest", str(manifest))
        assert done.status == 0, done.err


REAL = {"api": "http", "ingress": "ingress", "mesh": "mesh"}


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One replica's run."""

    replica: str
    folder: Path
    facts: RunFacts


@dataclass(slots=True)
class Asked:
    """What the neighbour answered while it was asked again and again."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)


@contextmanager
def asking(node: Daemon, app: str) -> Iterator[Asked]:
    """Ask an app through this node's ingress, one request after the other, on a new connection each."""
    asked, over = Asked(), threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            try:
                status, _, body = node.get(app, "/", timeout=20)
            except OSError as error:
                asked.failed.append(repr(error))
                continue
            if (status, body) == (200, b"ok"):
                asked.answered += 1
            else:
                asked.failed.append(f"{status} {body[:200]!r}")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join(30)
