"""How well would this node do? Each score is 0 to 1; placement takes the highest weighted sum.

Spread is no score: it is decided before (see `scheduler.placement`), so that no amount of free memory puts two
replicas into one zone while another stands empty.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.filters import NodeRoom, Wish

SHORT_NAME_LENGTH = 16
"""Hex digits by which a record names a bundle (gossip.record)."""

Score = Callable[[NodeRoom, Wish], float]


def free_memory(room: NodeRoom, wish: Wish) -> float:
    """What would be left with the replica there, so that a small node is not taken for a roomy one while empty."""
    record = room.facts.record
    if record is None:
        return 0.0
    used_bytes = room.memory_used_bytes + wish.manifest.resources.memory_bytes
    return _share(record.memory_bytes - used_bytes, record.memory_bytes)


def free_cpu(room: NodeRoom, wish: Wish) -> float:
    record = room.facts.record
    if record is None:
        return 0.0
    return _share(record.cpus - room.cpu_used - wish.manifest.resources.cpu, record.cpus)


def idle(room: NodeRoom, wish: Wish) -> float:
    record = room.facts.record
    return 0.0 if record is None else 1.0 - _share(record.load_percent, 100)


def few_replicas(room: NodeRoom, wish: Wish) -> float:
    return 1.0 / (1 + room.replicas)


def has_bundle(room: NodeRoom, wish: Wish) -> float:
    record = room.facts.record
    return 1.0 if record is not None and wish.bundle[:SHORT_NAME_LENGTH] in record.bundles else 0.0


SCORES: tuple[tuple[float, Score], ...] = (
    (3.0, free_memory),  # what kills when it runs out
    (2.0, free_cpu),
    (1.0, few_replicas),
    (0.5, idle),  # coarse and late, hence light
    (0.5, has_bundle),  # saves a fetch of at most seconds
)


def score(room: NodeRoom, wish: Wish) -> float:
    """The weighted mean of all scores, 0 to 1."""
    total = sum(weight for weight, _ in SCORES)
    return sum(weight * each(room, wish) for weight, each in SCORES) / total


def _share(part: float, whole: float) -> float:
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0
