"""The online checkers of one run together, and the traffic of nodes' observations to them.

Each epoch of the mesh has a history of its own (rule T5): when a lost majority is given up, the new one begins with
what the best survivor holds, and whoever still lives in the old one is compared with the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.sim.checkers.committed import CommittedLog
from tests.sim.checkers.one_leader import OneLeader
from tests.sim.checkers.recovered import HeldLog, check_recovered, common_prefix
from tests.sim.checkers.replica_state import ReplicaState
from tests.sim.checkers.violation import Violation


@dataclass(slots=True)
class Branch:
    """One epoch's history."""

    log: CommittedLog = field(default_factory=CommittedLog)
    replicas: ReplicaState = field(default_factory=ReplicaState)
    results: dict[int, bytes] = field(default_factory=dict)

    def fork(self, kept: int) -> Branch:
        """The history that goes on behind this index."""
        results = {index: result for index, result in self.results.items() if index <= kept}
        return Branch(self.log.fork(kept), self.replicas.fork(kept), results)


class Oracle:
    """Sees every node at once, which nobody in the world can; asked after every event of each node."""

    def __init__(self) -> None:
        self.leaders = OneLeader()
        self.branches: dict[int, Branch] = {1: Branch()}
        self.kept: dict[int, int] = {}  # of each epoch that was given up: how far the next one goes on from it
        self._lives: set[str] = set()

    @property
    def newest(self) -> Branch:
        """The present epoch's."""
        return self.branches[max(self.branches)]

    def branch(self, epoch: int) -> Branch:
        """This epoch's; a node that knows of none yet is compared with the present one."""
        return self.branches.get(epoch, self.newest)

    def takes(self, life: str) -> bool:
        """True for the first state machine that is made in a life."""
        if life in self._lives:
            return False
        self._lives.add(life)
        return True

    def applied(self, life: str, epoch: int, index: int, result: bytes) -> None:
        """A replica applied the next entry."""
        branch = self.branch(epoch)
        branch.replicas.applied(life, index)
        branch.replicas.result(life, index, result)
        branch.results.setdefault(index, result)

    def restored(self, life: str, index: int, digest: bytes) -> None:
        """A snapshot took a replica to this index; which epoch it is of, only its digest tells."""
        if len(self.branches) == 1:
            self.newest.replicas.digest(life, index, digest)
            return
        known = [found for branch in self.branches.values() if (found := branch.replicas.digest_at(index))]
        if known and digest not in known:
            raise Violation("replica-state", f"the snapshot of {life} at index {index} is of no epoch's state")

    def recovered(self, epoch: int, best: str, held: Mapping[str, HeldLog]) -> int:
        """This survivor opens an epoch; `held` is what each survivor has. Returns how far the old history is kept."""
        old = self.branches[epoch - 1]
        kept = common_prefix(old.log, held[best])
        check_recovered(old.log, best, kept, held)
        self.branches[epoch] = old.fork(kept)
        self.kept[epoch - 1] = kept
        return kept

    def is_given_up(self, epoch: int, index: int) -> bool:
        """Whether what this epoch agreed on at this index was given up with it."""
        return any(index > kept for given_up, kept in self.kept.items() if epoch <= given_up)
