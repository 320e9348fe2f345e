"""What the API's handlers may use; made by `daemon.node`, owned by nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consensus.ledger import Ledger
from daemon.config import Config
from daemon.events import EventLog
from daemon.home import Home
from daemon.keys import KeyHolder
from daemon.pulse import Pulse
from gossip.service import Gossip
from mesh.identity import Identity
from mesh.peers import Peers
from scheduler.app_exec import AppExec
from scheduler.app_logs import AppLogs
from scheduler.bundles import BundleStore
from scheduler.ingress.ingress import Ingress
from scheduler.runner import Runner
from scheduler.service import Scheduler


@dataclass(frozen=True, slots=True)
class Services:
    """One running node, seen from its API."""

    config: Config
    home: Home
    identity: Identity
    addresses: dict[str, str]
    peers: Peers
    gossip: Gossip
    ledger: Ledger
    keys: KeyHolder
    bundles: BundleStore
    scheduler: Scheduler
    runner: Runner
    logs: AppLogs
    exec: AppExec
    ingress: Ingress
    events: EventLog
    pulse: Pulse
    started_at: float
    sandbox: str
    not_named: Callable[[], str]  # what is said of this start as long as the ledger does not name it
    stop: Callable[[], None]
