"""What one observer says of one member never goes back, and nobody is called dead before its time to object is over.

Order (SWIM §4.2, pitfall 34): Alive(i) follows only what was said at an incarnation below i, Suspect(i) only what was
said below i or Alive(i), Dead anything. Time (Lifeguard §III.B): a suspicion that d *different* others confirmed ends
not before `suspicion_timeout(d)`; one accuser who repeats itself is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from tests.sim.checkers.violation import Violation

ALIVE, SUSPECT, DEAD = 0, 1, 2
TOLERANCE = 0.999


@dataclass(frozen=True, slots=True)
class SuspicionRule:
    """The formula's constants in this mesh."""

    shortest_s: float
    longest_s: float
    expected: int


class GossipOrder:
    """One observer, in one life."""

    def __init__(self, observer: str) -> None:
        self._observer = observer
        self._told: dict[str, tuple[int, int]] = {}
        self._suspicions: dict[str, tuple[float, str, SuspicionRule]] = {}

    def told(self, subject: str, incarnation: int, severity: int) -> None:
        """An event about a member; equal ones may repeat only if they are no claims of life."""
        before = self._told.get(subject, (0, ALIVE))
        if (incarnation, severity) < before:
            raise Violation(
                "gossip-order",
                f"{self._observer} went back on {subject}: from {before} to {(incarnation, severity)}",
            )
        self._told[subject] = (incarnation, severity)

    def suspected(self, now: float, subject: str, accuser: str, rule: SuspicionRule) -> None:
        """A suspicion began here, under what the rule is for the mesh as it is now."""
        self._suspicions[subject] = (now, accuser, rule)

    def cleared(self, subject: str) -> None:
        """The suspicion is over."""
        self._suspicions.pop(subject, None)

    def declared_dead(self, now: float, subject: str, confirmers: tuple[str, ...]) -> None:
        """The observer's own suspicion ran out; `confirmers` as it counted them itself."""
        if subject not in self._suspicions:
            return
        began, accuser, rule = self._suspicions.pop(subject)
        others = len(set(confirmers) - {accuser, subject})
        share = log(others + 1) / log(rule.expected + 1) if rule.expected >= 1 else 1.0
        least = max(rule.shortest_s, rule.longest_s - share * (rule.longest_s - rule.shortest_s))
        if now - began < least * TOLERANCE:
            raise Violation(
                "gossip-order",
                f"{self._observer} called {subject} dead {now - began:.2f} s after {accuser}'s accusation, which "
                f"{others} others had confirmed: {least:.2f} s were due",
            )
