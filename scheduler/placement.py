"""Where does a replica go? Filters say where it may, spread says among which zones and nodes, scores choose.

Source: the two steps of Nomad's scheduler (feasible, then rank); spread as a rule instead of a score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consensus.records import Assignment
from mesh.names import NodeId
from scheduler.filters import NodeRoom, Wish, refusal
from scheduler.manifest import Resources, Spread
from scheduler.model import ClusterView
from scheduler.scores import score


@dataclass(frozen=True, slots=True)
class Placed:
    node: NodeId
    why: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Nowhere: the reason of each node, by name."""

    refusals: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        if not self.refusals:
            return "the mesh has no members"
        counted = Counter(reason for _, reason in self.refusals)
        first = {reason: name for name, reason in reversed(self.refusals)}
        parts = [f"{first[reason]} {reason}" if n == 1 else f"{n} nodes: {reason}" for reason, n in counted.items()]
        return "; ".join(parts[:6]) + (f"; {len(parts) - 6} more reasons" if len(parts) > 6 else "")


class Landscape:
    """All members as places, with what is assigned to each; it follows the plan as the plan grows.

    Args:
        view: What is looked at.
        resources: What a replica of each release needs, by (app, release).
    """

    def __init__(self, view: ClusterView, resources: Mapping[tuple[str, int], Resources]) -> None:
        self._resources = resources
        self._rooms = {
            node_id: NodeRoom(member, view.facts(node_id), view.outs.get(node_id))
            for node_id, member in sorted(view.members.items())
        }
        self.zones = {node_id: zone_of(room) for node_id, room in self._rooms.items()}
        for assignment in view.assignments.values():
            self.add(assignment.node, assignment.app, assignment.release)

    def room(self, node_id: NodeId) -> NodeRoom | None:
        return self._rooms.get(node_id)

    def rooms(self) -> Iterable[NodeRoom]:
        return self._rooms.values()

    def add(self, node_id: NodeId, app: str, release: int, sign: int = 1) -> None:
        """Count a replica of this release on a node, or take it out again with sign -1."""
        room = self._rooms.get(node_id)
        if room is not None:
            room.take(self._resources.get((app, release), Resources()), sign)

    def set_staying(self, app: str, replicas: Iterable[Assignment]) -> None:
        """These are the replicas that spread is counted over: the ones that will still be there afterwards.

        Said once for each app: a landscape is made for one plan.
        """
        for node_id, count in Counter(assignment.node for assignment in replicas).items():
            room = self._rooms.get(node_id)
            if room is not None:
                room.of_app[app] = count

    def put(self, node_id: NodeId, wish: Wish, sign: int = 1) -> None:
        """Follow a placement, or with sign -1 forget one that was only tried."""
        room = self._rooms[node_id]
        room.take(wish.manifest.resources, sign)
        room.of_app[wish.app] = room.of_app.get(wish.app, 0) + sign


def place(landscape: Landscape, wish: Wish) -> Placed | Unplaced:
    """The best node for one more replica, or every node's reason against it."""
    refusals = []
    able = []
    for room in landscape.rooms():
        reason = refusal(room, wish)
        if reason is None:
            able.append(room)
        else:
            refusals.append((room.member.name, reason))
    if not able:
        return Unplaced(tuple(refusals))
    zones = by_zone(landscape, wish)
    best = max(able, key=lambda room: (_spread_rank(room, wish, zones), score(room, wish), room.member.node_id))
    return Placed(best.member.node_id, _why(best, wish, zones, len(able)))


def zone_of(room: NodeRoom) -> str:
    """A node that was given no zone shares its fate with nobody we know of: it is a zone of its own."""
    return room.member.zone or f"node:{room.member.node_id}"


def by_zone(landscape: Landscape, wish: Wish) -> Counter[str]:
    """Replicas of the wish's app that stay, by zone."""
    zones: Counter[str] = Counter()
    for room in landscape.rooms():
        zones[zone_of(room)] += room.of_app.get(wish.app, 0)
    return zones


def _spread_rank(room: NodeRoom, wish: Wish, zones: Counter[str]) -> tuple[int, int]:
    """Higher is better: fewer of this app in the zone, then fewer on the node."""
    here = room.of_app.get(wish.app, 0)
    match wish.manifest.spread:
        case Spread.ZONE:
            return -zones[zone_of(room)], -here
        case Spread.NODE:
            return 0, -here
        case Spread.NONE:
            return 0, 0


def _why(room: NodeRoom, wish: Wish, zones: Counter[str], able: int) -> str:
    text = f"best of {able} that may" if able > 1 else "the only node that may"
    if wish.manifest.spread is Spread.ZONE and room.member.zone:
        text += f"; zone {room.member.zone} has {zones[zone_of(room)]} of {wish.app}"
    elif wish.manifest.spread is not Spread.NONE:
        text += f"; it has {room.of_app.get(wish.app, 0)} of {wish.app}"
    return text
