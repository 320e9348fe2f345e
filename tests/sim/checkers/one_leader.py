"""Election safety: at most one leader a term (Raft §5.2), and a leader holds every committed entry (§5.4)."""

from __future__ import annotations

from tests.sim.checkers.violation import Violation


class OneLeader:
    """Told of everyone who takes the lead, by epoch and term."""

    def __init__(self) -> None:
        self._leaders: dict[tuple[int, int], str] = {}

    def leads(self, epoch: int, term: int, leader: str) -> None:
        """This process (a node in one of its lives) leads in this term."""
        known = self._leaders.setdefault((epoch, term), leader)
        if known != leader:
            raise Violation("one-leader", f"term {term} of epoch {epoch} has two leaders, {known} and {leader}")

    def terms(self) -> int:
        """How many terms had a leader."""
        return len(self._leaders)

    def sequence(self) -> tuple[tuple[int, int, str], ...]:
        """Everyone who led: (epoch, term, who), in the order of terms."""
        return tuple((epoch, term, who) for (epoch, term), who in sorted(self._leaders.items()))
