"""What this node has to start and to stop: its assignments in the ledger against what runs here. Pure.

The ledger's copy may be old (no quorum, just started): an assignment that it never heard of is then newer than the
copy, not gone, and is left alone (rule A1: every node goes on running what it runs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consensus.records import Assignment
from mesh.names import NodeId


@dataclass(frozen=True, slots=True)
class Running:
    """One replica that this node has processes or files of."""

    replica_id: str
    assignment_index: int
    retiring: bool  # its end was begun already


@dataclass(frozen=True, slots=True)
class LocalPlan:
    start: tuple[Assignment, ...]
    stop: tuple[str, ...]  # replica ids


def assigned_to(node_id: NodeId, assignments: Iterable[Assignment]) -> dict[str, Assignment]:
    """This node's assignments by replica."""
    return {assignment.replica_id: assignment for assignment in assignments if assignment.node == node_id}


def decide(assignments: Mapping[str, Assignment], running: Mapping[str, Running], applied: int) -> LocalPlan:
    """What to do now; called again whenever the ledger or what runs here changed.

    Args:
        assignments: This node's, by replica id, as of ledger index `applied`.
        running: What is here, by replica id. At most one life of a replica at a time (fault P5): one that is to be
            replaced is stopped first and started when it is gone.
        applied: The ledger index that `assignments` reflects.
    """
    start = [wanted for replica_id, wanted in sorted(assignments.items()) if replica_id not in running]
    stop = [
        replica_id
        for replica_id, here in sorted(running.items())
        if not here.retiring
        and here.assignment_index <= applied
        and (replica_id not in assignments or assignments[replica_id].index != here.assignment_index)
    ]
    return LocalPlan(tuple(start), tuple(stop))
