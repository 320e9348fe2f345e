"""What this node says of itself: built from what the parts report, published when it says something new (rule G3)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio

from consensus.ledger import Ledger
from daemon.config import Config
from daemon.version import FEATURE_LEVEL, VERSION
from gossip.record import NodeRecord, ReplicaReport
from gossip.service import Gossip
from mesh.names import NodeId
from scheduler.bundles import BundleStore

REFRESH_S = 10.0
"""Load and free disk are looked at this often, and are coarse, so that bytes per node stay flat (rule G3)."""

LOAD_STEP_PERCENT = 10
DISK_STEP_BYTES = 256 << 20
INDEX_STEP = 64
BUNDLES_MAX = 64
BUNDLE_PREFIX = 16


class OwnRecord:
    """Builds and publishes this node's record."""

    def __init__(
        self,
        config: Config,
        node_id: NodeId,
        boot_counter: int,
        addresses: dict[str, str],
        sandbox: str,
        *,
        gossip: Gossip,
        ledger: Ledger,
        bundles: BundleStore,
        reports: Callable[[], tuple[ReplicaReport, ...]],
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._boot_counter = boot_counter
        self._addresses = addresses
        self._sandbox = sandbox
        self._gossip = gossip
        self._ledger = ledger
        self._bundles = bundles
        self._reports = reports
        self._last: NodeRecord | None = None
        self._changed = trio.Event()

    def changed(self) -> None:
        """Something that the record tells may have changed; cheap, called from anywhere."""
        self._changed.set()

    async def run(self) -> None:
        """Publish whatever is new, at once when told, and every ten seconds."""
        while True:
            self._changed = trio.Event()
            record = self._build()
            if record != self._last:
                self._last = record
                self._gossip.publish(record)
            with trio.move_on_after(REFRESH_S):
                await self._changed.wait()

    def _build(self) -> NodeRecord:
        member = self._ledger.state.members.get(self._node_id)
        leader = self._ledger.leader
        record = NodeRecord(
            node_id=self._node_id,
            boot_counter=self._boot_counter,
            version=0,
            name=member.name if member else self._config.name,
            mesh_addresses=(self._config.advertise or self._addresses["mesh"],),
            ingress_address=self._addresses["ingress"],
            api_address=self._addresses["http"],
            program_version=VERSION,
            feature_level=FEATURE_LEVEL,
            cpus=float(os.cpu_count() or 1),
            memory_bytes=_memory_bytes(),
            disk_free_bytes=shutil.disk_usage(self._config.home).free // DISK_STEP_BYTES * DISK_STEP_BYTES,
            load_percent=0,
            takes_apps=self._sandbox != "none" or self._config.unsandboxed,
            sandbox=self._sandbox,
            ledger_index=self._ledger.state.applied // INDEX_STEP * INDEX_STEP,
            leader=leader or "",
            bundles=tuple(sorted(bundle[:BUNDLE_PREFIX] for bundle in self._bundles.list()))[:BUNDLES_MAX],
            replicas=self._reports(),
        )
        return replace(record, load_percent=self._load_percent(record.cpus))

    @staticmethod
    def _load_percent(cpus: float) -> int:
        percent = 100 * os.getloadavg()[0] / cpus
        return min(100, int(percent / LOAD_STEP_PERCENT + 0.5) * LOAD_STEP_PERCENT)


def _memory_bytes() -> int:
    """What this machine, or the container around the daemon, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total
