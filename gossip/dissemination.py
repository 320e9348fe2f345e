"""Updates on their way: each is sent λ·log n times by each node that learns it, the least told first.

Source: SWIM (DSN'02) §4.1 (infection-style dissemination); memberlist's `queue.go` for "newer replaces older".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log10

from gossip.messages import GOSSIP, UPDATE_OVERHEAD_BYTES, Claim, Dead, RecordAdvert, Suspect, Update
from mesh.names import NodeId


def transmissions_max(members: int, factor: int) -> int:
    """How often one node sends one update: λ·⌈log10(n + 1)⌉."""
    return factor * ceil(log10(max(1, members) + 1))


@dataclass(slots=True)
class _Rumour:
    encoded: bytes
    order: int  # of arrival; the newest of the equally often told goes first
    sent: int = 0


_State = tuple[NodeId, str]


class Dissemination:
    """The updates that this node still has to tell.

    Bounded by what it is about: per member one state, one record, and at most `accusers_max` single accusations.
    """

    def __init__(self, *, accusers_max: int) -> None:
        self._accusers_max = accusers_max
        self._rumours: dict[_State, _Rumour] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._rumours)

    def push(self, update: Update) -> None:
        """Tell this from now on; whatever it supersedes is no longer told."""
        subject = subject_of(update)
        match update:
            case Claim() | Dead():
                self._drop_accusations(subject)
                key = (subject, "state")
            case Suspect():
                accusations = [key for key in self._rumours if key[0] == subject and key[1].startswith("suspect:")]
                key = (subject, f"suspect:{update.accuser}")
                if key not in self._rumours and len(accusations) >= self._accusers_max:
                    return
                self._rumours.pop((subject, "state"), None)
            case RecordAdvert():
                key = (subject, "record")
        self._order += 1
        self._rumours[key] = _Rumour(GOSSIP.encode(update), self._order)

    def forget(self, node_id: NodeId) -> None:
        """Say nothing more about a member: it was removed."""
        for key in [key for key in self._rumours if key[0] == node_id]:
            del self._rumours[key]

    def take(self, budget_bytes: int, *, transmissions: int, first: tuple[bytes, ...] = ()) -> tuple[bytes, ...]:
        """Updates for one packet.

        Args:
            budget_bytes: What they may take in all, overhead included.
            transmissions: After so many sends an update is dropped.
            first: Encoded updates that must lead (the buddy system), if they fit; they count as no transmission.
        """
        taken: list[bytes] = []
        for encoded in first:
            if len(encoded) + UPDATE_OVERHEAD_BYTES <= budget_bytes:
                taken.append(encoded)
                budget_bytes -= len(encoded) + UPDATE_OVERHEAD_BYTES
        for key, rumour in sorted(self._rumours.items(), key=lambda item: (item[1].sent, -item[1].order)):
            size = len(rumour.encoded) + UPDATE_OVERHEAD_BYTES
            if size > budget_bytes:
                continue
            if rumour.encoded not in taken:
                taken.append(rumour.encoded)
                budget_bytes -= size
            rumour.sent += 1
            if rumour.sent >= transmissions:
                del self._rumours[key]
        return tuple(taken)

    def telling(self, node_id: NodeId) -> bool:
        """Whether that member's state still has to be told."""
        return (node_id, "state") in self._rumours

    def _drop_accusations(self, subject: NodeId) -> None:
        for key in [key for key in self._rumours if key[0] == subject and key[1].startswith("suspect:")]:
            del self._rumours[key]


def subject_of(update: Update) -> NodeId:
    """The member that an update is about."""
    match update:
        case Claim(body=body):
            return body.node_id
        case Suspect(claim=claim) | Dead(claim=claim):
            return claim.body.node_id
        case RecordAdvert(node_id=node_id):
            return node_id
