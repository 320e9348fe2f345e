"""An invite admits as many joiners as it has uses, whatever the partition (rule T2, attack 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.sim.checkers.violation import Violation
from tests.sim.history import Operation, Outcome


def check_invites(operations: Iterable[Operation], uses_max: Mapping[str, int]) -> int:
    """Check the histories of joins; returns how many joiners were admitted.

    Args:
        operations: Those of kind "join": key is the invite, argument the joiner; a retry is an operation of its own.
        uses_max: Of each invite.

    Raises:
        Violation: More joiners than uses, or a joiner that was admitted and then refused by the same invite.
    """
    admitted: dict[str, dict[str, Operation]] = {}
    refused_after: list[Operation] = []
    joins = [o for o in operations if o.kind == "join"]
    for join in joins:
        if join.outcome is Outcome.DONE:
            first = admitted.setdefault(join.key, {}).setdefault(join.argument, join)
            if first.answer != join.answer:
                raise Violation(
                    "invites", f"{join.argument} was told {first.answer!r} and then {join.answer!r} by {join.key}"
                )
        elif join.outcome is Outcome.REFUSED:
            refused_after.append(join)
    for join in refused_after:
        earlier = admitted.get(join.key, {}).get(join.argument)
        if earlier is not None and earlier.end < join.start and "removed" not in join.answer:
            raise Violation("invites", f"{join.argument} was admitted by {join.key} and its retry was refused")
    for invite, joiners in sorted(admitted.items()):
        if len(joiners) > uses_max[invite]:
            names = ", ".join(sorted(joiners))
            raise Violation("invites", f"{invite} has {uses_max[invite]} uses and admitted {names}")
    return sum(len(joiners) for joiners in admitted.values())
