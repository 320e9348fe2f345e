"""From what the ledger says (assignment, release, manifest) to what a node runs. Pure."""

from __future__ import annotations

from consensus.records import Assignment, Release
from scheduler.manifest import decode_manifest
from scheduler.runtimes.messages import HealthCheck, ReplicaPlan, RestartPolicy


def plan_of(assignment: Assignment, release: Release) -> ReplicaPlan:
    """The plan of one replica.

    Raises:
        ProtocolError, UpgradeNeeded: The manifest was written by a program that this one cannot read.
    """
    manifest = decode_manifest(release.manifest)
    health, restart = manifest.health, manifest.restart
    return ReplicaPlan(
        replica_id=assignment.replica_id,
        app=assignment.app,
        release=release.number,
        assignment_index=assignment.index,
        bundle=release.bundle,
        runtime=manifest.runtime,
        command=manifest.command,
        install=manifest.install,
        environment=manifest.env,
        secrets=manifest.secrets,
        cpu=manifest.resources.cpu,
        memory_bytes=manifest.resources.memory_bytes,
        disk_bytes=manifest.resources.disk_bytes,
        health=HealthCheck(
            path=health.path,
            interval_s=health.interval_s,
            timeout_s=health.timeout_s,
            healthy_after=health.healthy_after,
            unhealthy_after=health.unhealthy_after,
        ),
        restart=RestartPolicy(
            first_s=restart.backoff_min_s, last_s=restart.backoff_max_s, give_up_after=restart.give_up_after
        ),
        exclusive=manifest.exclusive,
    )
