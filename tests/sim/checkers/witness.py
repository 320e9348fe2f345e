"""Linearizability by witness: the revisions that replies carry name the order; check that it is a legal one.

Every answered operation carries a ledger index: a write that of its entry, a read that of the state it saw. Put in
that order (a write before the reads of its own revision), the history must make sense on a sequential register, and
it must not contradict real time: no operation may start after one with a higher revision ended. Exact for what the
replies claim, in O(n log n); a cluster whose revisions lie consistently is caught by `wgl`.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from tests.sim.checkers.violation import Violation
from tests.sim.history import Operation, Outcome

ABSENT = ""
"""What a read of a key that was never written returns."""


def check_witness(operations: Iterable[Operation]) -> int:
    """Check the registers' reads and writes; returns how many operations were witnessed.

    An unknown write takes part with the revision that the agreed log gave it (the world looks it up), and without
    an end. One that has none may still surface at the first read that returns it: the log may have been cut off.
    """
    known = [o for o in operations if o.kind in ("write", "read")]
    placed = [o for o in known if o.outcome is Outcome.DONE or (_is_unknown_write(o) and o.revision)]
    ordered = sorted(placed, key=lambda o: (o.revision, o.kind == "read", o.number))
    _check_real_time(ordered)
    _check_values(ordered, [o for o in known if _is_unknown_write(o) and not o.revision])
    return len(ordered)


def _is_unknown_write(operation: Operation) -> bool:
    return operation.kind == "write" and operation.outcome in (Outcome.UNKNOWN, Outcome.OPEN)


def _check_real_time(ordered: list[Operation]) -> None:
    # Backwards, keeping the earliest end among higher revisions: whoever starts after it contradicts real time.
    earliest_end, whose = inf, None
    group: list[Operation] = []
    for operation in reversed(ordered):
        if group and group[-1].revision != operation.revision:
            for other in group:
                if other.end < earliest_end:
                    earliest_end, whose = other.end, other
            group = []
        if operation.start > earliest_end and whose is not None:
            raise Violation(
                "witness",
                f"operation {operation.number} ({operation.kind} of {operation.key}) started at {operation.start:.4f} "
                f"and has revision {operation.revision}, though operation {whose.number} had ended at "
                f"{whose.end:.4f} with revision {whose.revision}",
            )
        if operation.kind == "write":
            for other in group:
                if other.kind == "write":
                    raise Violation("witness", f"writes {operation.number} and {other.number} have one revision")
                if other.end < operation.start:
                    raise Violation("witness", f"read {other.number} ended before write {operation.number} began")
        group.append(operation)


def _check_values(ordered: list[Operation], unplaced: list[Operation]) -> None:
    values: dict[str, str] = {}
    maybe = {(o.key, o.argument): o for o in unplaced}
    for operation in ordered:
        if operation.kind == "write":
            values[operation.key] = operation.argument
            continue
        expected = values.get(operation.key, ABSENT)
        if operation.answer == expected:
            continue
        surfacing = maybe.pop((operation.key, operation.answer), None)
        if surfacing is None or surfacing.start > operation.end:
            raise Violation(
                "witness",
                f"read {operation.number} of {operation.key} at revision {operation.revision} returned "
                f"{operation.answer!r}, the register held {expected!r}",
            )
        values[operation.key] = operation.answer
