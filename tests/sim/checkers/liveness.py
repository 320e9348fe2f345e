"""Liveness on a connected core: once faults have ended for it, it must finish its work within a bound.

The core holds a quorum of every configuration that may be in force; the other nodes may stay broken for ever.
Source: TigerBeetle's VOPR, which keeps liveness in a mode of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.sim.checkers.violation import Violation


@dataclass(frozen=True, slots=True)
class CoreView:
    """What one node of the core looks like when it is asked."""

    node: str
    leads: bool  # and its own no-op is committed
    leader: str
    term: int
    applied: int
    digest: bytes
    waiting: int  # requests of clients at this node that have no answer


def unfinished(views: Iterable[CoreView], *, quiet_since_index: int) -> str:
    """What the core has not done yet; "" when all is done.

    Args:
        views: One for each node of the core.
        quiet_since_index: Every node must have applied at least this.
    """
    cores = list(views)
    leaders = [view for view in cores if view.leads]
    if not leaders:
        return "nobody leads"
    leader = max(leaders, key=lambda view: view.term)
    for view in cores:
        if view.waiting:
            return f"{view.waiting} requests wait at {view.node}"
    for view in cores:
        if view.applied < max(quiet_since_index, leader.applied):
            return f"{view.node} has applied {view.applied}, {leader.node} (leading) {leader.applied}"
    for view in cores:
        if view.applied == leader.applied and view.digest != leader.digest:
            return f"{view.node} and {leader.node} differ at index {view.applied}"
    return ""


def check_alive(what: str, *, waited_s: float) -> None:
    """Raise `Violation` for what is unfinished when the bound has passed."""
    if what:
        raise Violation("liveness", f"after {waited_s:.0f} s of calm: {what}")
