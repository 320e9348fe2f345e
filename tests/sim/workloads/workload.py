"""What all workloads share: a loop of operations with pauses, until it is told to stop."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable

from consensus.ledger_state import LedgerState
from tests.sim.client import Clients
from tests.sim.world import World


class Workload(ABC):
    """Some clients, each with one operation at a time."""

    name = ""

    def __init__(self, world: World, clients: Clients) -> None:
        self.world = world
        self.clients = clients
        self.rng = world.random(f"workload:{self.name}")
        self.stopped = False
        self.busy = 0

    def begin(self, names: list[str]) -> None:
        """Have each client start in its time."""
        for name in names:
            self.pause(name)

    def stop(self) -> None:
        """Begin nothing new."""
        self.stopped = True

    def pause(self, client: str) -> None:
        """Let the client think, then act."""
        self.world.agenda.after(self.rng.expovariate(1.0 / self.world.options.think_s), self._turn, client)

    def _turn(self, client: str) -> None:
        if not self.stopped:
            self.busy += 1
            self.act(client, self._acted(client))

    def _acted(self, client: str) -> Callable[[], None]:
        def acted() -> None:
            self.busy -= 1
            self.pause(client)

        return acted

    @abstractmethod
    def act(self, client: str, done: Callable[[], None]) -> None:
        """One operation; call `done` once when it is over."""

    def check(self, final: LedgerState) -> None:  # noqa: B027 - registers are checked for all workloads alike
        """Compare the history with the state that all agreed on; raises `Violation`. Most is checked for all alike."""


def pick_weighted(rng: random.Random, choices: tuple[tuple[str, float], ...]) -> str:
    """One of the names, by weight."""
    return rng.choices([name for name, _ in choices], [weight for _, weight in choices])[0]
