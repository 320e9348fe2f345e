"""A recovered mesh goes on with all that any survivor holds of what was agreed on (rule T5).

What a client was told and no survivor holds is lost with the disks that held it: that is what the operator was shown
and said yes to. All else must be in the log that the new epoch goes on from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.sim.checkers.committed import CommittedLog
from tests.sim.checkers.violation import Violation


@dataclass(frozen=True, slots=True)
class HeldLog:
    """What a survivor's disk holds: all up to `base` by a snapshot, then entries as index → (term, kind)."""

    base: int
    entries: Mapping[int, tuple[int, str]]


def common_prefix(agreed: CommittedLog, held: HeldLog) -> int:
    """How far the survivor's log is the agreed one.

    Two logs with an entry of the same index and term are equal up to it. Raft's own entries are noted without their
    term, and mean nothing to anybody: those that follow count where they stand.
    """
    last = held.base
    for index, (term, kind) in held.entries.items():
        known = agreed.entries.get(index)
        if kind == "normal" and known is not None and known.kind == kind and known.term == term:
            last = max(last, index)
    while _raft_own(agreed, held, last + 1):
        last += 1
    return last


def _raft_own(agreed: CommittedLog, held: HeldLog, index: int) -> bool:
    known, mine = agreed.entries.get(index), held.entries.get(index)
    return known is not None and mine is not None and known.kind == mine[1] != "normal"


def check_recovered(agreed: CommittedLog, best: str, kept: int, held: Mapping[str, HeldLog]) -> None:
    """Raise `Violation` if a survivor holds more of what was agreed on than the one whose log is taken."""
    for name in sorted(held):
        reach = common_prefix(agreed, held[name])
        if reach > kept:
            raise Violation(
                "recovered", f"{name} holds what was agreed on up to {reach}, and {best} goes on from {kept}"
            )
