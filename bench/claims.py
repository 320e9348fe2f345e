"""All claims by name, in the order in which they are run."""

from __future__ import annotations

from bench import cli, crash_points, cuts, deploy, failover, idle, join, no_failed_request, replica_moves
from bench.harness import Claim

_MODULES = (cli, join, failover, replica_moves, deploy, no_failed_request, idle, crash_points, cuts)

CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in _MODULES}
