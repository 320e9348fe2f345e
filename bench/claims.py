"""All claims by name, in the order in which they are run."""

from __future__ import annotations

from bench import (
    cli,
    crash_points,
    cuts,
    deploy,
    failover,
    idle,
    join,
    neighbours,
    no_failed_request,
    orphans,
    replica_moves,
)
from bench.harness import Claim

_MODULES = (
    cli,
    join,
    failover,
    replica_moves,
    deploy,
    no_failed_request,
    neighbours,
    idle,
    crash_points,
    cuts,
    orphans,
)

CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in _MODULES}
