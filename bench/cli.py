"""Claim: a cold `freecloud status` costs less than 0.25 s of processor time.

User and system time of the whole command as the kernel counts it, against one running node. The peer: `etcdctl
endpoint status`, and beside it what the interpreter alone costs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

from bench.etcd import EtcdCluster, missing_etcd
from bench.harness import Claim, Run, Sample, alternate, main
from bench.machine import ROOT
from bench.meshes import mesh, scratch
from bench.samples import NotMeasuredError

TARGET_S = 0.25


def measure(run: Run) -> None:
    missing = missing_etcd()
    if not missing and not shutil.which("etcdctl"):
        missing = "etcdctl is not installed"
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        node = stack.enter_context(mesh(folder, 1)).nodes[0]
        status = [sys.executable, "-m", "cli.main", "status", "--home", str(node.home)]
        sides: list[Sample] = [lambda: cpu_of(status), lambda: cpu_of([sys.executable, "-c", "pass"])]
        if not missing:
            (folder / "etcd").mkdir()
            etcd = stack.enter_context(EtcdCluster(folder / "etcd", 1))
            endpoint = f"--endpoints=127.0.0.1:{etcd.members[0].client_port}"
            sides.append(lambda: cpu_of(["etcdctl", endpoint, "endpoint", "status"]))
        samples = alternate(run.count, sides)
    peer = ("etcdctl", samples[2] if len(samples) > 2 else missing)
    run.medians("processor time of `freecloud status`", samples[0], target=TARGET_S, peer=peer)
    run.medians("the same, beside the bare interpreter", samples[0], peer=("python -c pass", samples[1]))


def cpu_of(command: list[str]) -> float:
    """User and system time of one run."""
    environment = {**os.environ, "ETCDCTL_API": "3"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise NotMeasuredError(f"{command[0]} ended with status {process.returncode}")
    return used.ru_utime + used.ru_stime


CLAIM = Claim("cli", __doc__ or "", measure, smoke=5, full=20)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
