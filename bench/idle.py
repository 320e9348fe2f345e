"""Claim: a quiet node takes less than 50 MB and less than 1 % of a core.

A fresh mesh of five, every port used once (mesh, API by socket and TCP, ingress), then 60 s of quiet: PSS of each
node's process tree from smaps_rollup, processor time from /proc/PID/stat. Then whereami is deployed, and the same is
taken again, with a shim's share by itself (an app's own memory is its owner's). The worst node counts. The peer:
three etcd nodes over the same minute. `--count` is the seconds of quiet.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from bench.etcd import EtcdCluster, missing_etcd
from bench.harness import Claim, Figure, Peer, Run, main
from bench.meshes import deploy, healthy_on, mesh, moment, scratch
from bench.processes import Part, cpu_s, processes, pss_mib, tree
from bench.samples import NotMeasuredError
from daemon.client import Client
from tests.e2e.cluster import Cluster, Daemon

NODES = 5
TARGET_MB = 50.0
TARGET_PERCENT = 1.0
MB_A_MIB = 1.048576
SETTLE_S = 10.0
"""Quiet before the quiet: what start-up and joining left to do is done by then."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One node, or one peer's process, over the quiet."""

    name: str
    memory_mb: float
    cpu_percent: float
    shim_mb: float = 0.0
    shims: int = 0


def measure(run: Run) -> None:
    missing = missing_etcd()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        ours = stack.enter_context(mesh(folder, NODES))
        etcd = None
        if not missing:
            (folder / "etcd").mkdir()
            etcd = stack.enter_context(EtcdCluster(folder / "etcd"))
        for node in ours.nodes:
            use_every_port(node)
        run.note(f"quiet for {run.count} s")
        nodes, peers = watch(ours, etcd, run.count)
        tell(run, "fresh", nodes, peers, missing)
        deploy(ours.nodes[0])
        moment("three healthy replicas", lambda: healthy_on(ours.nodes[0]))
        for node in ours.nodes:
            node.get("whereami", "/where")
        run.note(f"with an app, quiet for {run.count} s")
        nodes, peers = watch(ours, etcd, run.count)
        tell(run, "with an app", nodes, peers, missing)
        tell_shims(run, nodes)


def use_every_port(node: Daemon) -> None:
    """The mesh port is in use by the links; the API's socket and port and the ingress are asked once each."""
    token = node.client.post("/v1/tokens", {"name": f"bench-{node.name}", "scopes": ["read"], "expires_ms": 3_600_000})
    Client(node.home, node=f"http://{node.addresses['http']}", token=token["token"]).get("/v1/status")
    node.get("nobody", "/")


def watch(ours: Cluster, etcd: EtcdCluster | None, quiet_s: float) -> tuple[list[Usage], list[Usage]]:
    """Both sides over the same stretch."""
    time.sleep(SETTLE_S)
    trees = [(node.name, parts_of(node)) for node in ours.nodes]
    trees_etcd = [(member.name, {member.pid: Part.DAEMON}) for member in etcd.members] if etcd else []
    everyone = trees + trees_etcd
    before = {pid: cpu_s(pid) for _, parts in everyone for pid in parts if parts[pid] is not Part.APP}
    began = time.monotonic()
    time.sleep(quiet_s)
    elapsed_s = time.monotonic() - began
    spent = {pid: cpu_s(pid) - cpu_before for pid, cpu_before in before.items()}
    usages = [usage(name, parts, spent, elapsed_s) for name, parts in everyone]
    return usages[: len(trees)], usages[len(trees) :]


def parts_of(node: Daemon) -> dict[int, Part]:
    pid = node.pid
    if pid is None:
        raise NotMeasuredError(f"{node.name} does not run")
    return tree(processes(), pid, node.home)


def usage(name: str, parts: dict[int, Part], spent: dict[int, float], elapsed_s: float) -> Usage:
    memory = {pid: pss_mib(pid) * MB_A_MIB for pid, part in parts.items() if part is not Part.APP}
    shims = [pid for pid, part in parts.items() if part is Part.SHIM]
    cpu = sum(spent[pid] for pid in memory)
    shim_mb = sum(memory[pid] for pid in shims)
    return Usage(name, sum(memory.values()), 100 * cpu / elapsed_s, shim_mb, len(shims))


def tell(run: Run, when: str, nodes: list[Usage], peers: list[Usage], missing: str) -> None:
    for node in nodes:
        shims = f", {node.shims} shims {node.shim_mb:.1f} MB of it" if node.shims else ""
        run.note(f"{when}: {node.name} {node.memory_mb:.1f} MB{shims}, {node.cpu_percent:.2f} % of a core")
    memory = Peer("etcd", max(peer.memory_mb for peer in peers)) if peers else Peer("etcd", reason=missing)
    cpu = Peer("etcd", max(peer.cpu_percent for peer in peers)) if peers else Peer("etcd", reason=missing)
    basis = f"worst of {len(nodes)} nodes, {run.count} s"
    run.figure(Figure(f"memory, {when}", max(node.memory_mb for node in nodes), "MB", basis, TARGET_MB, memory))
    run.figure(Figure(f"processor, {when}", max(node.cpu_percent for node in nodes), "%", basis, TARGET_PERCENT, cpu))


def tell_shims(run: Run, nodes: list[Usage]) -> None:
    shims = [node.shim_mb / node.shims for node in nodes if node.shims]
    if not shims:
        run.skip("a shim's share: no shim was found")
        return
    daemon = max(node.memory_mb - node.shim_mb for node in nodes)
    run.figure(Figure("a shim's share", max(shims), "MB", f"worst of {len(shims)}", None, Peer("the daemon", daemon)))


CLAIM = Claim("idle", __doc__ or "", measure, smoke=20, full=60, realtime=False)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
