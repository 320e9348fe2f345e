"""Claim: whereami is healthy within 5 s of `freecloud deploy` with its dependencies at hand, within 30 s without.

Three nodes, three replicas, `install: requirements.txt` naming one package. Without: a fresh environment each time,
on every node. The peer is the least that it could take: the same program started by hand until it answers.
"""

from __future__ import annotations

import http.client
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.etcd import free_port
from bench.harness import Claim, Run, Sample, alternate, main
from bench.meshes import APP, MANIFEST, app, deploy, manifest_with, mesh, moment, pinned, scratch
from bench.samples import NotMeasuredError
from mesh.errors import MissingError
from tests.e2e.cluster import Daemon

NODES = 3
CACHED_TARGET_S = 5.0
FRESH_TARGET_S = 30.0
PACKAGE = "blake3"
BY_HAND = "by hand"


def measure(run: Run) -> None:
    requirement = pinned(PACKAGE)
    with scratch() as folder, mesh(folder, NODES) as ours:
        node = ours.nodes[0]
        cached = manifest_with(folder, "cached", {"install": "requirements.txt"}, files(requirement))
        fresh = (
            manifest_with(folder, "fresh", {"install": "requirements.txt"}, files(f"{requirement}\n# {number}"))
            for number in itertools.count()
        )
        try:
            deploy_and_remove(node, cached, "cached")
        except NotMeasuredError as error:
            run.skip(f"with dependencies: {error}")
            plain: list[Sample] = [lambda: deploy_and_remove(node, MANIFEST, APP), start_by_hand]
            without, by_hand = alternate(run.count, plain)
            run.medians("deploy without dependencies until healthy", without, peer=(BY_HAND, by_hand))
            return
        sides: list[Sample] = [
            lambda: deploy_and_remove(node, cached, "cached"),
            lambda: deploy_and_remove(node, next(fresh), "fresh"),
            start_by_hand,
        ]
        at_hand, anew, by_hand = alternate(run.count, sides)
    run.medians("deploy until healthy, dependencies cached", at_hand, target=CACHED_TARGET_S, peer=(BY_HAND, by_hand))
    run.medians("deploy until healthy, dependencies fetched", anew, target=FRESH_TARGET_S, peer=(BY_HAND, by_hand))


def files(requirements: str) -> dict[str, str]:
    return {"requirements.txt": requirements + "\n"}


def deploy_and_remove(node: Daemon, manifest: Path, name: str) -> float:
    """One first deployment; how long it took."""
    took_s = deploy(node, manifest)
    done = node.run("apps", "remove", name)
    if done.status != 0:
        raise NotMeasuredError(f"{name} was not removed: {done.err.strip()}")
    moment(f"{name} to be gone", lambda: is_gone(node, name))
    return took_s


def is_gone(node: Daemon, name: str) -> bool:
    try:
        app(node, name)
    except MissingError:
        return True
    return False


def start_by_hand() -> float:
    """The program itself, from start to its first good answer."""
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=MANIFEST.parent / "src",
        env=os.environ | {"PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        moment("whereami by hand", lambda: answers(port))
        return time.monotonic() - began
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    finally:
        connection.close()


CLAIM = Claim("deploy", __doc__ or "", measure, smoke=3, full=5, realtime=False)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
