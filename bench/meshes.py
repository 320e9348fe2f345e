"""Meshes of real daemons to measure: made in a folder of their own, gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bench.machine import ROOT
from bench.samples import NotMeasuredError
from mesh.errors import FreecloudError
from tests.e2e.cluster import Cluster, Daemon, cluster

T = TypeVar("T")

APP = "whereami"
MANIFEST = ROOT / "examples" / APP / "app.yaml"
LIMIT_S = 60.0
POLL_S = 0.01
"""How finely a moment is seen from outside. Each look costs the node that is asked about a millisecond."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a path short enough for a socket, that apps' own users may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="fcb-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mesh(folder: Path, count: int) -> Iterator[Cluster]:
    """A fresh mesh of this many daemons that all see each other.

    Raises:
        NotMeasuredError: It did not come up, or something in it that was waited for never happened.
    """
    try:
        with cluster(folder / "mesh") as made:
            made.start(count)
            yield made
    except (AssertionError, FreecloudError, subprocess.TimeoutExpired) as error:
        raise NotMeasuredError(str(error)) from error


def moment(what: str, reached: Callable[[], T | None], limit_s: float = LIMIT_S) -> T:
    """Look until the answer is true, finely.

    Raises:
        NotMeasuredError: It never was.
    """
    limit = time.monotonic() + limit_s
    last = ""
    while time.monotonic() < limit:
        try:
            if answer := reached():
                return answer
        except (FreecloudError, OSError) as error:
            last = f": {error}"
        time.sleep(POLL_S)
    raise NotMeasuredError(f"waited {limit_s:.0f} s for {what}{last}")


def launch(node: Daemon, *words: str, token: str) -> subprocess.Popen[str]:
    """Start `freecloud join` without waiting for it."""
    command = [sys.executable, "-m", "cli.main", *words, "--home", str(node.home), "--name", node.name]
    reader, writer = os.pipe()
    os.write(writer, token.encode() + b"\n")
    os.close(writer)
    process = subprocess.Popen(
        [*command, "--detach", "--json"],
        stdin=reader,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    os.close(reader)
    return process


def deploy(node: Daemon, manifest: Path = MANIFEST) -> float:
    """`freecloud deploy` until it says healthy; how long it took.

    Raises:
        NotMeasuredError: It did not become healthy; the last line says why.
    """
    began = time.monotonic()
    done = node.run("deploy", "--manifest", str(manifest))
    took_s = time.monotonic() - began
    if done.status != 0:
        raise NotMeasuredError(f"the deployment ended with status {done.status}: {done.err.strip()[-300:]}")
    return took_s


def leader_of(ours: Cluster) -> Daemon:
    """The node that all take for the leader, once they agree."""

    def agreed() -> Daemon | None:
        names = {node.status()["quorum"]["leader"] for node in ours.nodes}
        return next((node for node in ours.nodes if names == {node.name}), None)

    return moment("all to know one leader", agreed)


def app(node: Daemon, name: str = APP) -> dict[str, Any]:
    answer: dict[str, Any] = node.client.get(f"/v1/apps/{name}")
    return answer


def healthy_on(node: Daemon, name: str = APP) -> list[str]:
    """The nodes where a replica is healthy, as this node sees it; empty while any is on its way in or out."""
    told = app(node, name)
    placed = told["placed"]
    holders = [str(replica["node"]) for replica in placed if replica["health"] == "healthy"]
    return holders if len(holders) == len(placed) == told["replicas"] else []


def resume(node: Daemon) -> None:
    """Start a node again in its old home."""
    done = node.up()
    if done.status != 0:
        raise NotMeasuredError(f"{node.name} did not start again: {done.err.strip()[-300:]}")


def pinned(package: str) -> str:
    """The version of a package that this project itself is locked to, as a requirement."""
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.lower().startswith(f"{package}=="):
            return line.split()[0]
    raise NotMeasuredError(f"{package} is not in the lock")


def manifest_with(folder: Path, name: str, changes: dict[str, Any], files: dict[str, str]) -> Path:
    """A copy of whereami under another name, with other settings and more files in its source."""
    import yaml

    target = folder / name
    shutil.copytree(MANIFEST.parent, target, dirs_exist_ok=True)
    for file, content in files.items():
        (target / "src" / file).write_text(content)
    settings = yaml.safe_load(MANIFEST.read_text()) | {"name": name} | changes
    (target / "app.yaml").write_text(json.dumps(settings))
    return target / "app.yaml"
