"""Linearizability of single registers from times and values alone, independent of our revisions.

The search of Wing and Gong with Lowe's memo: depth first over which pending operation takes effect next, remembering
(set of done operations as an int's bits, value). One key at a time, which is sound and complete for independent
registers (P-compositionality, Horn & Kroening). NP-complete (Gibbons & Korach), so it gives up after a budget of
steps and says so; it never gives up by the clock, or the same seed would not give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from math import inf

from tests.sim.checkers.violation import Violation
from tests.sim.checkers.witness import ABSENT
from tests.sim.history import Operation, Outcome

STEPS_MAX = 200_000
"""About a second; a thousand operations of ten clients take a twentieth of it."""


class Verdict(Enum):
    LINEARIZABLE = "linearizable"
    GAVE_UP = "gave up"


def check_registers(operations: Iterable[Operation], *, steps_max: int = STEPS_MAX) -> dict[Verdict, int]:
    """Check every key by itself; returns how many keys ended in which verdict.

    Raises:
        Violation: No order of one key's operations explains what its clients saw.
    """
    keys: dict[str, list[Operation]] = {}
    for operation in operations:
        if _matters(operation):
            keys.setdefault(operation.key, []).append(operation)
    verdicts = dict.fromkeys(Verdict, 0)
    for key in sorted(keys):
        verdicts[_check_one(key, keys[key], steps_max)] += 1
    return verdicts


def _matters(operation: Operation) -> bool:
    # Reads without an answer say nothing; writes that certainly did not happen are none.
    if operation.kind == "read":
        return operation.outcome is Outcome.DONE
    return operation.kind == "write" and operation.outcome in (Outcome.DONE, Outcome.UNKNOWN, Outcome.OPEN)


def _check_one(key: str, operations: list[Operation], steps_max: int) -> Verdict:
    ordered = sorted(operations, key=lambda o: (o.start, o.number))
    ends = [inf if o.outcome is not Outcome.DONE else o.end for o in ordered]
    must_finish = sum(1 << i for i, end in enumerate(ends) if end != inf)
    stack: list[tuple[int, str]] = [(0, ABSENT)]
    seen: set[tuple[int, str]] = {(0, ABSENT)}
    steps = 0
    while stack:
        steps += 1
        if steps > steps_max:
            return Verdict.GAVE_UP
        done, value = stack.pop()
        if done & must_finish == must_finish:
            return Verdict.LINEARIZABLE
        for following in _next_states(ordered, ends, done, value):
            if following not in seen:
                seen.add(following)
                stack.append(following)
    raise Violation("wgl", f"no order of the {len(ordered)} operations on {key} explains their answers")


def _next_states(ordered: list[Operation], ends: list[float], done: int, value: str) -> list[tuple[int, str]]:
    """Each operation that may take effect next: none that is still to come may have ended before it started."""
    found: list[tuple[int, str]] = []
    earliest_end = inf
    for i, operation in enumerate(ordered):
        if done >> i & 1:
            continue
        if operation.start > earliest_end:
            break  # so does everyone after it
        earliest_end = min(earliest_end, ends[i])
        if operation.kind == "write":
            found.append((done | 1 << i, operation.argument))
        elif operation.answer == value:
            return [(done | 1 << i, value)]  # a read that fits now may go first without loss
    return found
