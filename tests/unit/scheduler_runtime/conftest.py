"""A node's home for the tests of runtimes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A folder that other users may pass through. Those of pytest's are closed by any other run that begins."""
    made = Path(tempfile.mkdtemp(prefix="fch-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def home(open_home: Path) -> Iterator[Path]:
    """A node's home, with what must stay the node's."""
    home = open_home / "home"
    for name in ("identity", "run", "apps/web-2/work"):
        (home / name).mkdir(mode=0o700, parents=True)
    (home / "identity" / "node.pem").write_text("secret")
    (home / "identity" / "node.pem").chmod(0o600)
    (home / "apps" / "web-2" / "work" / "data").write_text("the neighbour's")
    (home / "apps" / "web-2" / "record.bin").write_text("the daemon's")
    home.chmod(0o700)
    (home / "apps").chmod(0o700)
    (home / "apps" / "web-2").chmod(0o700)
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(home / "run", os.O_PATH)
    listener.bind(f"/proc/self/fd/{folder}/daemon.sock")
    os.close(folder)
    listener.listen()
    yield home
    listener.close()
