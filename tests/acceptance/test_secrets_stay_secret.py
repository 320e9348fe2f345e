"""Secrets are where they are used and nowhere else: no argv, no log, no event, no answer, no file of a home (T7)."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.client import Client
from daemon.home import Home
from mesh.invite import decode_token
from tests.e2e.cluster import Cluster, Daemon, cluster, freecloud, wait_until

APP = """\
name: keeper
source: ./src
command: python3 app.py
replicas: 2
secrets: [API_KEY]
health: {path: /, interval: 1s}
"""

SOURCE = """\
import os, http.server, pathlib
VALUE = os.environ["API_KEY"]
assert pathlib.Path(os.environ["SECRETS_DIR"], "API_KEY").read_text() == VALUE
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(str(len(VALUE)).encode())
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

VALUE = "correct-horse-7f3a9c-battery-staple"


@pytest.fixture
def mesh() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    with cluster(folder) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.deadline(120)
def test_no_secret_is_found_where_it_is_not_used(mesh: Cluster, tmp_path: Path) -> None:
    first = mesh.add()
    invite = mesh.token(uses=3)
    second = Daemon("n2", first.home.parent / "n2")
    done = second.join(invite)
    assert done.status == 0, done.err
    mesh.nodes.append(second)
    wait_until("both see both", lambda: all(Cluster.alive(node) == 2 for node in mesh.nodes))
    token = first.run("auth", "tokens", "create", "ci", "--scope", "admin").out.strip()
    elsewhere = Client(tmp_path, node=f"http://{first.addresses['http']}", token=token)
    assert elsewhere.get("/v1/status")["node"]["name"] == "n1"
    assert first.run("secrets", "set", "API_KEY", stdin=VALUE + "\n").status == 0
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text(SOURCE)
    (tmp_path / "app.yaml").write_text(APP)
    deployed = first.run("deploy", "--manifest", str(tmp_path / "app.yaml"))
    assert deployed.status == 0, deployed.err
    assert second.get("keeper")[2] == str(len(VALUE)).encode()

    hidden = {
        "the secret's value": forms(VALUE.encode()),
        "the invite's secret": [*forms(decode_token(invite).secret), invite.encode(), invite[4:].encode()],
        "the API token": forms(token.split("_")[2].encode()),
    }
    assert any(found_in_files(node.home, [b"API_KEY"]) for node in mesh.nodes), "the search finds what is there"
    assert found_in_command_lines([str(first.home).encode()])
    for name, needles in hidden.items():
        assert not found_in_command_lines(needles), name
        for node in mesh.nodes:
            assert not found_in_files(node.home, needles), name
    said = [freecloud(*words, "--json", home=first.home) for words in READS]
    text = "\n".join(done.out + done.err for done in said).encode()
    assert b"API_KEY" in text, "its name is no secret"
    for name, needles in hidden.items():
        assert not any(needle in text for needle in needles), name
    for node in mesh.nodes:
        log = Home(node.home).daemon_log.read_bytes()
        assert not any(needle in log for needles in hidden.values() for needle in needles)


READS = (
    ("status",),
    ("nodes", "list"),
    ("nodes", "show", "n2"),
    ("apps", "show", "keeper"),
    ("apps", "why", "keeper"),
    ("apps", "logs", "keeper"),
    ("secrets", "list"),
    ("auth", "tokens", "list"),
    ("events",),
    ("jobs",),
    ("doctor",),
)


def forms(raw: bytes) -> list[bytes]:
    """The bytes as they are, and as they are usually written."""
    base64_text = base64.b64encode(raw).rstrip(b"=")
    return [raw, raw.hex().encode(), base64_text, base64.urlsafe_b64encode(raw).rstrip(b"=")]


def found_in_command_lines(needles: list[bytes]) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            if any(needle in line for needle in needles):
                found.append(line.decode(errors="replace"))
    return found


def found_in_files(home: Path, needles: list[bytes]) -> list[str]:
    """Files of a home that hold any of these; the app's own source, which names the secret, holds no value."""
    found = []
    for path in home.rglob("*"):
        try:
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        except OSError:
            continue  # it went away
        if any(needle in content for needle in needles):
            found.append(str(path))
    return found
