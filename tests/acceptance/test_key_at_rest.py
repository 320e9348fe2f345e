"""Rule T7 by the command: a key under a passphrase, from a file or from systemd, and no other way in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Daemon, Done, wait_until

WORDS = "correct horse battery staple"


@pytest.fixture
def node() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made = Daemon("n1", folder / "home")
    try:
        yield made
    finally:
        made.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def up(node: Daemon, **environment: str) -> Done:
    given = {key: value for key, value in os.environ.items() if not key.startswith("FREECLOUD_")}
    given |= {"FREECLOUD_HOME": str(node.home), **environment}
    command = [sys.executable, "-m", "cli.main", "up", "--detach", "--name", node.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=given, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_node_with_a_passphrase_starts_by_it_alone_and_its_disk_holds_no_key(node: Daemon) -> None:
    secret = node.home.parent / "passphrase"
    secret.write_text(WORDS + "\n")
    assert up(node, FREECLOUD_PASSPHRASE_FILE=str(secret)).status == 0
    assert node.run("secrets", "set", "A", stdin="x").status == 0
    assert node.run("invite").status == 0, "it admits joiners: its TLS has the key"
    first = node.status()["node"]["id"]
    assert node.run("down", "--now").status == 0
    for path in node.home.rglob("*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes(), path
            assert WORDS.encode() not in path.read_bytes(), path
    for environment in ({}, {"FREECLOUD_PASSPHRASE_FILE": __file__}):
        done = up(node, **environment)
        assert (done.status, done.err.count("\n")) == (4, 1), done
        assert "FREECLOUD_PASSPHRASE_FILE" in done.err
        assert WORDS not in done.err
    missing = up(node, FREECLOUD_PASSPHRASE_FILE=str(node.home / "nothing"))
    assert (missing.status, missing.err.count("\n")) == (2, 1), missing
    credentials = node.home.parent / "credentials"
    credentials.mkdir()
    (credentials / "freecloud-passphrase").write_text(WORDS)
    assert up(node, CREDENTIALS_DIRECTORY=str(credentials)).status == 0
    wait_until("it is itself again", lambda: node.status()["node"]["id"] == first)
    wait_until("it decides again", lambda: node.run("secrets", "list").out.count("A") > 0)
