"""May this node take this replica? Each filter gives a reason against it, or nothing.

A filter knows one subject. All of them are asked, the first reason is told: so they stand in the order in which a
person would want to hear of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.records import Member, MemberStatus, Out
from gossip.members import MemberState
from scheduler.manifest import Manifest, Resources
from scheduler.manifest_fields import show_size
from scheduler.model import NodeFacts


@dataclass(slots=True)
class NodeRoom:
    """One member as a place for replicas; what is assigned to it grows while a plan is made."""

    member: Member
    facts: NodeFacts
    out: Out | None
    cpu_used: float = 0.0
    memory_used_bytes: int = 0
    disk_used_bytes: int = 0
    replicas: int = 0
    of_app: dict[str, int] = field(default_factory=dict)  # replicas that stay, by app

    def take(self, resources: Resources, sign: int = 1) -> None:
        """Count a replica in, or out with sign -1."""
        self.cpu_used += sign * resources.cpu
        self.memory_used_bytes += sign * resources.memory_bytes
        self.disk_used_bytes += sign * resources.disk_bytes
        self.replicas += sign


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be placed."""

    app: str
    release: int
    bundle: str
    manifest: Manifest
    troubled: frozenset[str] = frozenset()  # nodes where this release failed lately


Filter = Callable[[NodeRoom, Wish], str | None]


def removed(room: NodeRoom, wish: Wish) -> str | None:
    return "was removed from the mesh" if room.member.status is MemberStatus.REMOVED else None


def out(room: NodeRoom, wish: Wish) -> str | None:
    return f"is out: {room.out.reason}" if room.out is not None else None


def draining(room: NodeRoom, wish: Wish) -> str | None:
    return "is being drained" if room.member.status is MemberStatus.DRAINING else None


_STATES = {
    MemberState.SUSPECT: "is suspected to be down",
    MemberState.DOWN: "is down",
    MemberState.LEFT: "has left for now",
    MemberState.AWAY: "is away as planned",
    MemberState.UNKNOWN: "was not heard of since this node started",
}


def heard(room: NodeRoom, wish: Wish) -> str | None:
    if room.facts.state is not MemberState.ALIVE:
        return _STATES[room.facts.state]
    return "has not told its capacity yet" if room.facts.record is None else None


def takes_apps(room: NodeRoom, wish: Wish) -> str | None:
    record = room.facts.record
    return None if record is None or record.takes_apps else "takes no apps"


def trusted(room: NodeRoom, wish: Wish) -> str | None:
    if room.member.trusted or wish.manifest.untrusted:
        return None
    return "is not trusted, and the manifest does not allow that"


def constraints(room: NodeRoom, wish: Wish) -> str | None:
    labels = dict(room.member.labels)
    for key, wanted in wish.manifest.constraints:
        if labels.get(key) != wanted:
            return f"has {key}={labels[key]}, not {wanted}" if key in labels else f"has no label {key}={wanted}"
    return None


def cpu(room: NodeRoom, wish: Wish) -> str | None:
    record = room.facts.record
    if record is None:
        return None
    left = record.cpus - room.cpu_used
    wanted = wish.manifest.resources.cpu
    # Sums of fractions carry an error in the last digits; a thousandth of a core is nobody's app.
    return None if wanted <= left + 0.001 else f"has {max(left, 0):.3g} of {record.cpus:g} cpus left, {wanted:g} wanted"


def memory(room: NodeRoom, wish: Wish) -> str | None:
    record = room.facts.record
    if record is None:
        return None
    return _lack("memory", record.memory_bytes - room.memory_used_bytes, wish.manifest.resources.memory_bytes)


def disk(room: NodeRoom, wish: Wish) -> str | None:
    """What runs there may have taken its share of the free bytes already: counted twice, which only errs on the
    safe side, because a full disk is every neighbour's failure (fault D5)."""
    record = room.facts.record
    if record is None:
        return None
    return _lack("disk", record.disk_free_bytes - room.disk_used_bytes, wish.manifest.resources.disk_bytes)


def troubled(room: NodeRoom, wish: Wish) -> str | None:
    return f"release {wish.release} failed there lately" if room.member.node_id in wish.troubled else None


def _lack(what: str, left_bytes: int, wanted_bytes: int) -> str | None:
    if wanted_bytes <= left_bytes:
        return None
    return f"has {show_size(max(left_bytes, 0))} of {what} left, {show_size(wanted_bytes)} wanted"


FILTERS: tuple[Filter, ...] = (
    removed,
    out,
    draining,
    heard,
    takes_apps,
    trusted,
    constraints,
    memory,
    cpu,
    disk,
    troubled,
)

STAYING: tuple[Filter, ...] = (draining, trusted, constraints)
"""Reasons for which a replica that runs there already has to move: what an operator said, never what was measured."""


def refusal(room: NodeRoom, wish: Wish, filters: tuple[Filter, ...] = FILTERS) -> str | None:
    """The first reason against this node, or None: it may."""
    for each in filters:
        reason = each(room, wish)
        if reason is not None:
            return reason
    return None
