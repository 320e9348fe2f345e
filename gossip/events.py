"""What the machine tells: events for those who act on them, notes for those who ask why."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mesh.names import NodeId

OBSERVATIONS_MAX = 32
"""Kept per member: several full stories of accusation, confirmation, death and return."""


@dataclass(frozen=True, slots=True)
class MemberAlive:
    """A member came up, came back, or started anew."""

    node_id: NodeId
    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberSuspected:
    node_id: NodeId
    incarnation: int
    accuser: NodeId


@dataclass(frozen=True, slots=True)
class MemberDown:
    """Nobody heard it and it did not object. Nothing moves by this alone: the leader decides what is too long."""

    node_id: NodeId
    incarnation: int
    accuser: NodeId


@dataclass(frozen=True, slots=True)
class MemberLeft:
    node_id: NodeId
    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberAway:
    """It said that it plans to be away."""

    node_id: NodeId
    until_ms: int


@dataclass(frozen=True, slots=True)
class RecordChanged:
    node_id: NodeId
    version: int


@dataclass(frozen=True, slots=True)
class OwnClaimContested:
    """Somebody with this node's key made a claim that this start never made: a clone, or a life it forgot (T3)."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class StoodStill:
    """This node itself did nothing for that long: stopped, suspended, or starved of its processor (fault P3)."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Lagged:
    """The watcher was too slow and missed events; it has to look at the view again."""


GossipEvent = (
    MemberAlive
    | MemberSuspected
    | MemberDown
    | MemberLeft
    | MemberAway
    | RecordChanged
    | OwnClaimContested
    | StoodStill
    | Lagged
)


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a member's story, as the machine saw it."""

    node_id: NodeId
    # suspected, confirmed, down, alive, left, away, link-closed, datagrams-lost, never-heard, indirect, direct;
    # of this node itself: accused, stood-still
    kind: str
    accuser: NodeId | None = None
    probes: str = ""
    confirmers: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """A note with the wall time at which this node took it."""

    at_wall_ms: int
    kind: str
    accuser: NodeId | None
    probes: str
    confirmers: tuple[NodeId, ...]


class History:
    """The last notes of every member; what `nodes why` prints."""

    def __init__(self, limit: int = OBSERVATIONS_MAX) -> None:
        self._limit = limit
        self._rings: dict[NodeId, deque[Observation]] = {}

    def add(self, note: Note, at_wall_ms: int) -> None:
        ring = self._rings.setdefault(note.node_id, deque(maxlen=self._limit))
        ring.append(Observation(at_wall_ms, note.kind, note.accuser, note.probes, note.confirmers))

    def of(self, node_id: NodeId) -> tuple[Observation, ...]:
        """Oldest first."""
        return tuple(self._rings.get(node_id, ()))

    def keep_only(self, node_ids: frozenset[NodeId]) -> None:
        """Drop the stories of those who are no members any more."""
        for node_id in [node_id for node_id in self._rings if node_id not in node_ids]:
            del self._rings[node_id]
