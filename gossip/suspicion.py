"""A suspicion: it starts long and is shortened by every independent confirmation.

Source: Lifeguard (DSN'18) §III.B (dogpile); the shape of memberlist's `remainingSuspicionTime`, without its timer.
"""

from __future__ import annotations

from math import log, log10

from gossip.messages import Evidence
from mesh.names import NodeId


def suspicion_bounds(members: int, factor: float, stretch: float, interval_s: float) -> tuple[float, float]:
    """The shortest and the longest suspicion, in seconds, in a mesh of that many members.

    It grows with log n because the accused's refutation takes log n rounds to come back.
    """
    shortest = factor * max(1.0, log10(max(1, members))) * interval_s
    return shortest, shortest * stretch


def suspicion_timeout(confirmations: int, expected: int, shortest_s: float, longest_s: float) -> float:
    """How long a suspicion lasts in all, after so many confirmations of the expected ones.

    With nobody to confirm (two nodes) it is the shortest: waiting would bring no more proof.
    """
    if expected < 1:
        return shortest_s
    share = log(confirmations + 1) / log(expected + 1)
    return max(shortest_s, longest_s - share * (longest_s - shortest_s))


class Suspicion:
    """One member under suspicion at one incarnation.

    Args:
        accuser: Who began; its own repetition confirms nothing.
        expected: Confirmations that bring the shortest timeout: K, or as many as there are others to ask.
    """

    def __init__(
        self,
        incarnation: int,
        accuser: NodeId,
        evidence: Evidence,
        *,
        started: float,
        expected: int,
        shortest_s: float,
        longest_s: float,
    ) -> None:
        self.incarnation = incarnation
        self.accuser = accuser
        self.evidence = evidence
        self.started = started
        self._expected = expected
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._confirmers: list[NodeId] = []

    @property
    def confirmers(self) -> tuple[NodeId, ...]:
        return tuple(self._confirmers)

    def confirm(self, accuser: NodeId) -> bool:
        """Count an accuser; True if it was new and still needed, so that it is worth telling others."""
        if accuser == self.accuser or accuser in self._confirmers or len(self._confirmers) >= self._expected:
            return False
        self._confirmers.append(accuser)
        return True

    def deadline(self) -> float:
        """When the member is declared dead."""
        return self.started + suspicion_timeout(
            len(self._confirmers), self._expected, self._shortest_s, self._longest_s
        )

    def postpone(self, by_s: float) -> None:
        """We stood still for that long and heard no refutation; the accused gets its time back."""
        self.started += by_s
