"""The constants of a Raft replica, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Validated once; times in seconds.

    Args:
        heartbeat_s: How often an idle leader speaks. Several must fit into `election_min_s`, so that one lost
            heartbeat is no election.
        election_min_s: A follower that heard its leader within this time helps nobody to replace it.
        election_max_s: Each wait for a leader is drawn from [min, max]; the spread is what breaks ties. A leader
            that has not heard from a quorum for this long steps down (CheckQuorum).
        batch_entries_max, batch_bytes_max: Of one Append (etcd: by bytes alone; hashicorp: 64 entries).
        inflight_messages_max, inflight_bytes_max: Sent to one follower and not acknowledged.
        uncommitted_bytes_max: Proposals beyond this are refused until some commit; a single one always passes.
        entry_bytes_max: One payload.
        reads_max: Linearizable reads waiting at one replica.
        log_keep_entries, log_keep_bytes: Kept in memory and on disk before the newest snapshot, so that a follower
            that was away for a while needs no snapshot (hashicorp 10,240; etcd 10,000 entries).
        snapshots_at_once: Sent by one leader; more would only share its link.
        snapshot_resend_s: An unanswered chunk is asked for again after this time.
        snapshot_stall_s: Without a byte of progress for this long the follower is probed anew.
    """

    heartbeat_s: float = 0.15
    election_min_s: float = 0.5
    election_max_s: float = 1.0
    batch_entries_max: int = 64
    batch_bytes_max: int = 1024 * 1024
    inflight_messages_max: int = 256
    inflight_bytes_max: int = 4 * 1024 * 1024
    uncommitted_bytes_max: int = 16 * 1024 * 1024
    entry_bytes_max: int = 1024 * 1024
    reads_max: int = 4096
    log_keep_entries: int = 10_000
    log_keep_bytes: int = 4 * 1024 * 1024
    snapshots_at_once: int = 2
    snapshot_resend_s: float = 2.0
    snapshot_stall_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < 2 * self.heartbeat_s < self.election_min_s < self.election_max_s:
            raise ValueError("two heartbeats must fit into the shortest election timeout, and that below the longest")
        for name in (
            "batch_entries_max",
            "batch_bytes_max",
            "inflight_messages_max",
            "inflight_bytes_max",
            "uncommitted_bytes_max",
            "entry_bytes_max",
            "reads_max",
            "snapshots_at_once",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    @property
    def disk_stall_s(self) -> float:
        """Two average election timeouts: a leader whose disk was silent that long gives up (fault D8)."""
        return self.election_min_s + self.election_max_s
