"""Which nodes are spared in the liveness phase: a random set that holds a quorum of all that may be in force."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence


def is_quorum(names: Iterable[str], voters: frozenset[str]) -> bool:
    """True if these are a majority of the voters."""
    return len(voters & frozenset(names)) > len(voters) // 2


def choose_core(
    rng: random.Random,
    names: Sequence[str],
    configurations: Iterable[frozenset[str]],
    doubtful: frozenset[str],
) -> frozenset[str]:
    """Leave out as many of the nodes, in a random order and to a random number, as every quorum can bear.

    Args:
        names: All nodes.
        configurations: Every set of voters of which some node thinks that a majority is needed.
        doubtful: Nodes whose votes may not count, as their memory was lost; they may be in the core beside a quorum.
    """
    needed = list(configurations)
    core = list(names)
    order = rng.sample(core, len(core))
    for name in order[: rng.randint(0, max(0, len(order) - 2))]:
        rest = [other for other in core if other != name]
        if all(is_quorum((other for other in rest if other not in doubtful), voters) for voters in needed):
            core = rest
    return frozenset(core)
