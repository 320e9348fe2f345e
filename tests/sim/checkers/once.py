"""Exactly once: an acknowledged request took effect one time, an unknown one at most one time (pitfall 27).

Each request of the workload leaves a mark of its own in the state (the reason of an assignment), and the ledger
gives each effect a new number, so a request that ran twice has two effects with the same mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.sim.checkers.violation import Violation
from tests.sim.history import Operation, Outcome


def check_once(operations: Iterable[Operation], effects: Iterable[str]) -> int:
    """Compare what clients of "assign" were told with the marks in the final state; returns how many were told "done".

    Args:
        operations: Those of kind "assign"; the argument is the mark.
        effects: The mark of every effect in the state that all agreed on in the end.
    """
    found = Counter(effects)
    told = 0
    for operation in operations:
        if operation.kind != "assign":
            continue
        times = found.pop(operation.argument, 0)
        if times > 1:
            raise Violation("once", f"request {operation.argument} took effect {times} times")
        if operation.outcome is Outcome.DONE:
            told += 1
            if not times:
                raise Violation("once", f"request {operation.argument} was acknowledged and had no effect")
        elif times and operation.outcome in (Outcome.REFUSED, Outcome.NOTHING):
            raise Violation("once", f"request {operation.argument} was said not to have happened, and did")
    for mark in sorted(found):
        raise Violation("once", f"an effect {mark!r} that nobody asked for")
    return told
