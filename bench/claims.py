"""All claims by name, in the order in which they are run."""

from __future__ import annotations

from bench import cli, crash_points, cuts, deploy, failover, idle, join, replica_moves
from bench.harness import Claim

CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM for module in (cli, join, failover, replica_moves, deploy, idle, crash_points, cuts)
}
