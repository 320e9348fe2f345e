"""Gossip converges: some time after the faults have ended, everyone in the core sees it as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.sim.checkers.violation import Violation

ALIVE = "alive"


def disagreements(
    views: Mapping[str, Mapping[str, str]], alive: Iterable[str], dead: Iterable[str]
) -> list[tuple[str, str, str]]:
    """Who sees whom wrongly, as (observer, subject, state seen).

    Args:
        views: Each observer's state of each other node.
        alive: Nodes that run and can be reached by all observers: each must be seen alive.
        dead: Nodes that cannot be reached: none may be seen alive.
    """
    alive_set, dead_set = set(alive), set(dead)
    wrong: list[tuple[str, str, str]] = []
    for observer in sorted(views):
        for subject in sorted((alive_set | dead_set) - {observer}):
            seen = views[observer].get(subject, "unknown")
            if (seen == ALIVE) != (subject in alive_set):
                wrong.append((observer, subject, seen))
    return wrong


def check_gossip(views: Mapping[str, Mapping[str, str]], alive: Iterable[str], dead: Iterable[str]) -> None:
    """Raise `Violation` if anyone sees anyone wrongly."""
    wrong = disagreements(views, alive, dead)
    if wrong:
        observer, subject, seen = wrong[0]
        raise Violation("gossip", f"{observer} still sees {subject} as {seen} ({len(wrong)} wrong views)")
