"""The online checkers of one run together, and the traffic of nodes' observations to them."""

from __future__ import annotations

from tests.sim.checkers.committed import CommittedLog
from tests.sim.checkers.one_leader import OneLeader
from tests.sim.checkers.replica_state import ReplicaState


class Oracle:
    """Sees every node at once, which nobody in the world can; asked after every event of each node."""

    def __init__(self) -> None:
        self.leaders = OneLeader()
        self.log = CommittedLog()
        self.replicas = ReplicaState()
        self.results: dict[int, bytes] = {}
        self._lives: set[str] = set()

    def takes(self, life: str) -> bool:
        """True for the first state machine that is made in a life."""
        if life in self._lives:
            return False
        self._lives.add(life)
        return True

    def applied(self, life: str, index: int, result: bytes) -> None:
        """A replica applied the next entry."""
        self.replicas.applied(life, index)
        self.replicas.result(life, index, result)
        self.results.setdefault(index, result)
