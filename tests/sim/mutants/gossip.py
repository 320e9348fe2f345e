"""Planted bugs of gossip, 19 to 22 of the faults page; they run in meshes of gossip alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gossip.awareness import Awareness
from gossip.judgement import Judgement
from gossip.members import Members
from gossip.messages import Claim, Statement
from gossip.suspicion import Suspicion
from tests.sim.gossip_run import GossipReport, gossip_options, simulate_gossip
from tests.sim.mutants.mutant import Planting, replacing


@dataclass(frozen=True, slots=True)
class GossipMutant:
    """A planted bug that a mesh of gossip alone has to show."""

    number: int
    name: str
    plant: Planting

    def caught(self, seed: int, size: float = 1.0) -> GossipReport | None:
        """The report of a run with the bug, if a checker noticed it; these runs have one size."""
        with self.plant():
            report = simulate_gossip(gossip_options(seed))
        return report if report.checker else None

    def is_clean(self, seed: int, size: float) -> bool:
        """Whether the very same run without the bug is green."""
        return not simulate_gossip(gossip_options(seed)).failure


def _no_refutation(original: Callable[..., Any]) -> Callable[..., Any]:
    def about_me(self: Judgement, statement: Statement) -> Any:
        if isinstance(statement, Claim):
            return original(self, statement)
        return None

    return about_me


def _equal_incarnation_wins(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: Members, now: float, statement: Statement, **rest: Any) -> Any:
        member = self.get(statement.body.node_id) if isinstance(statement, Claim) else None
        if member is not None and statement == member.claim:
            member.statement = None  # as if nothing worse had been said: the claim is news again
        return original(self, now, statement, **rest)

    return apply


def _one_accuser_counts_thrice(original: Callable[..., Any]) -> Callable[..., Any]:
    def confirm(self: Suspicion, accuser: Any) -> bool:
        # Whoever repeats itself, the first accuser too, is counted as one more.
        if len(self._confirmers) >= self._expected:
            return False
        self._confirmers.append(accuser)
        return True

    return confirm


def _health_never_falls(original: Callable[..., Any]) -> Callable[..., Any]:
    def note(self: Awareness, change: int) -> None:
        original(self, max(0, change))

    return note


MUTANTS: tuple[GossipMutant, ...] = (
    GossipMutant(19, "refutation dropped", replacing(Judgement, "_about_me", _no_refutation)),
    GossipMutant(20, "alive accepted at equal incarnation", replacing(Members, "apply", _equal_incarnation_wins)),
    GossipMutant(21, "one accuser counts thrice", replacing(Suspicion, "confirm", _one_accuser_counts_thrice)),
    GossipMutant(22, "local health never falls", replacing(Awareness, "note", _health_never_falls)),
)
