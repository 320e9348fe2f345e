"""What a node's runner writes to its disk and what other nodes ask of it: records of replicas, logs, tunnels."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.names import NodeId
from mesh.versioned import Codec

RUNTIME = Codec()
"""The codec of everything below."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How to tell whether a replica serves; without a path a TCP connection has to do."""

    path: str  # "": TCP connect
    interval_s: float
    timeout_s: float
    healthy_after: int  # successes in a row
    unhealthy_after: int  # failures in a row


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long to wait before the next start, and when to stop trying."""

    first_s: float
    last_s: float
    give_up_after: int  # restarts; 0: never


@RUNTIME.message("runner.plan")
@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """All that is needed to run one replica, taken from its assignment, release and manifest; secrets by name only."""

    replica_id: str
    app: str
    release: int
    assignment_index: int
    bundle: str  # BLAKE3 of the source archive, hex
    runtime: str
    command: str
    install: str  # path of a requirements file inside the source; "": nothing to install
    environment: tuple[tuple[str, str], ...]
    secrets: tuple[str, ...]
    cpu: float
    memory_bytes: int
    disk_bytes: int
    health: HealthCheck
    restart: RestartPolicy
    exclusive: bool


@RUNTIME.message("runner.record")
@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """A replica's own file in its folder: what a restarted daemon needs to find it again."""

    plan: ReplicaPlan
    run_id: str  # of the newest run; written before it is started
    port: int
    restarts: int


@RUNTIME.message("runner.logs-request")
@dataclass(frozen=True, slots=True)
class LogsRequest:
    app: str
    replica_id: str  # "": every replica of the app that has a log on this node
    lines_max: int  # of each replica, from the end
    follow: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    at_ms: int
    stream: str  # "stdout" | "stderr" | "freecloud"
    text: str  # as written: whoever shows it escapes control characters
    continued: bool


@RUNTIME.message("runner.log-lines")
@dataclass(frozen=True, slots=True)
class LogLines:
    replica_id: str
    lines: tuple[LogLine, ...]
    ended: bool  # the replica is not running here any more


@RUNTIME.message("runner.tunnel")
@dataclass(frozen=True, slots=True)
class TunnelTo:
    """The header of an ingress tunnel: a replica and the assignment that made it, never an address (attack 15)."""

    replica_id: str
    assignment_index: int


@RUNTIME.message("runner.round")
@dataclass(frozen=True, slots=True)
class TunnelRound:
    """The header of an ingress tunnel to somebody who shall bring it on to this node."""

    node: NodeId
    to: TunnelTo


@RUNTIME.message("runner.exec")
@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A command to run beside a replica, in its folder, sandbox and environment."""

    replica_id: str
    command: tuple[str, ...]


@RUNTIME.message("runner.exec-output")
@dataclass(frozen=True, slots=True)
class ExecOutput:
    """Lines that it wrote; in the last message of all, how it ended."""

    lines: tuple[LogLine, ...]
    exit_code: int | None  # as a shell tells it: 128 and the number for a signal
