"""Everything about a run that chance decides beforehand, drawn from the seed, printed, and never drawn again.

Each seed takes its own subset of faults and workloads and its own constants ("swarm"), so that nothing comes to
depend on a default and combinations arise that nobody would have listed. Ranges of the network: the faults page, 1a.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace

from tests.sim.network import NetworkOptions

FAULTS = (
    "clock_drift",
    "clock_step",
    "clog",
    "clone",
    "crash",
    "crash_at_effect",
    "disk_full",
    "disk_stall",
    "flapping",
    "fsync_fails",
    "leader_crash",
    "link_reset",
    "lost_disk",
    "lying_fsync",
    "majority_lost",
    "old_state",
    "one_way_cut",
    "partial_cut",
    "partition",
    "pause",
    "power_loss",
    "rot",
    "slow_node",
    "suspend",
)
"""The names of the files in tests/sim/faults; a test keeps both lists equal."""

WORKLOADS = ("apps", "invites", "membership", "reconfiguration", "registers", "tokens")
"""The names of the files in tests/sim/workloads; a test keeps both lists equal."""


@dataclass(frozen=True, slots=True)
class Constants:
    """What the cores are configured with; the product's defaults are one point of this space."""

    heartbeat_s: float
    election_s_min: float
    election_s_max: float
    batch_entries_max: int
    batch_bytes_max: int
    inflight_max: int
    chunk_bytes: int
    snapshot_every: int  # applied entries between snapshots
    log_kept: int  # entries left before a snapshot when the log is cut
    probe_interval_s: float
    probe_timeout_s: float
    push_pull_interval_s: float
    segment_bytes: int


@dataclass(frozen=True, slots=True)
class Options:
    """One seed's run."""

    seed: int
    nodes: int
    voters: int
    safety_s: float
    network: NetworkOptions
    faults: tuple[str, ...]
    fault_gap_s: float  # mean true time between two strikes of one fault
    outage_s: float  # mean length of what lasts
    workloads: tuple[str, ...]
    clients: int
    think_s: float  # mean pause of a client between two operations
    request_s: float  # deadline of a client's request
    drift: float  # clocks run at 1 ± this
    disk_delay_s: float  # mean time of a write with its fsync
    damage: float  # chance that an unsynced write does not survive power loss whole
    encode: float  # share of messages that go through their codec
    constants: Constants

    def text(self) -> str:
        """One line a field, for the head of a printed trace."""
        lines: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("faults", "workloads"):
                value = " ".join(value)
            lines.append(f"# {field.name}: {value}")
        return "\n".join(lines)


def draw(seed: int) -> Options:
    """The options of this seed."""
    rng = random.Random(f"options:{seed}")
    voters = rng.choice((3, 3, 3, 5, 5))
    constants = _draw_constants(rng)
    return Options(
        seed=seed,
        nodes=voters + rng.choice((0, 0, 1, 2, 4)),
        voters=voters,
        safety_s=rng.uniform(12.0, 25.0),
        network=_draw_network(rng, constants),
        faults=_subset(seed, FAULTS, 0.55),
        fault_gap_s=rng.uniform(4.0, 16.0),
        outage_s=rng.uniform(0.5, 5.0),
        workloads=tuple(sorted({"registers", *_subset(seed, WORKLOADS, 0.7)})),
        clients=rng.randint(2, 5),
        think_s=rng.uniform(0.05, 0.6),
        request_s=rng.uniform(2.0, 8.0),
        drift=rng.choice((0.0, 0.02, 0.1)),
        disk_delay_s=rng.choice((0.0002, 0.002, 0.02)),
        damage=rng.uniform(0.8, 1.0),
        encode=rng.choice((0.05, 0.2)),
        constants=constants,
    )


def without(options: Options, fault: str) -> Options:
    """The same run but for this fault: every other draw stays what it was."""
    return replace(options, faults=tuple(name for name in options.faults if name != fault))


def _draw_network(rng: random.Random, constants: Constants) -> NetworkOptions:
    # A link that is slower than elections are patient never has a leader, which tests nothing: delays keep below.
    patience = constants.election_s_min
    return NetworkOptions(
        loss=rng.choice((0.0, 0.01, rng.uniform(0.0, 0.3))),
        replay=rng.choice((0.0, rng.uniform(0.0, 0.5))),
        delay_min_s=rng.uniform(0.0, min(0.030, patience / 20)),
        delay_mean_s=rng.uniform(0.002, min(0.100, patience / 8)),
        clog=rng.choice((0.0, rng.uniform(0.0, 0.005))),
        clog_s_max=rng.uniform(0.1, 5.0),
    )


def _draw_constants(rng: random.Random) -> Constants:
    election = rng.choice((0.5, rng.uniform(0.3, 1.5)))
    return Constants(
        heartbeat_s=rng.choice((0.15, rng.uniform(0.05, 0.24))) * election / 0.5,
        election_s_min=election,
        election_s_max=election * rng.uniform(1.5, 2.5),
        batch_entries_max=rng.choice((1, 2, 8, 64)),
        batch_bytes_max=rng.choice((512, 4096, 1024 * 1024)),
        inflight_max=rng.choice((1, 2, 16, 256)),
        chunk_bytes=rng.choice((256, 1024, 65_536)),
        snapshot_every=rng.choice((8, 20, 60, 200)),
        log_kept=rng.choice((0, 4, 20, 100)),
        probe_interval_s=rng.uniform(0.4, 1.2),
        probe_timeout_s=rng.uniform(0.15, 0.35),
        push_pull_interval_s=rng.uniform(3.0, 10.0),
        segment_bytes=rng.choice((4096, 16_384, 65_536)),
    )


def _subset(seed: int, names: tuple[str, ...], share: float) -> tuple[str, ...]:
    """Each by a chance of its own, so that a new file changes nothing about the old ones' seeds."""
    return tuple(name for name in names if random.Random(f"options:{seed}:{name}").random() < share)
