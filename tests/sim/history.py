"""What clients asked and were told: the only thing that the checkers over histories may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf


class Outcome(Enum):
    OPEN = "open"  # no answer yet
    DONE = "done"
    REFUSED = "refused"  # a result of the ledger: understood, and not done
    NOTHING = "nothing"  # an error that promises that nothing happened
    UNKNOWN = "unknown"  # it may have happened, or may yet


@dataclass(slots=True)
class Operation:
    """One request of one client. Times are true seconds; one that has no certain end stays open for ever."""

    number: int
    client: str
    kind: str  # "write", "read", or a workload's own word
    key: str
    argument: str
    start: float
    end: float = inf
    outcome: Outcome = Outcome.OPEN
    revision: int = 0  # ledger index that the answer carries: of the entry, or of the state read
    answer: str = ""
    epoch: int = 0  # of the ledger that the revision is of

    def finish(self, time: float, outcome: Outcome, *, revision: int = 0, answer: str = "", epoch: int = 0) -> None:
        """Note the answer; `UNKNOWN` leaves the end open, as it may take effect any time later."""
        if self.outcome is not Outcome.OPEN:
            raise AssertionError(f"operation {self.number} was answered twice")
        self.outcome, self.revision, self.answer, self.epoch = outcome, revision, answer, epoch
        if outcome is not Outcome.UNKNOWN:
            self.end = time

    def undo(self) -> None:
        """Its answer rests on a majority whose disks are gone: it may be lost, or not, and a read says nothing."""
        self.outcome = Outcome.NOTHING if self.kind == "read" else Outcome.UNKNOWN
        self.end, self.revision, self.answer = inf, 0, ""


@dataclass(slots=True)
class History:
    """All operations of a run, in the order of their starts."""

    operations: list[Operation] = field(default_factory=list)

    def begin(self, time: float, client: str, kind: str, key: str, argument: str = "") -> Operation:
        """A client sends a request."""
        operation = Operation(len(self.operations), client, kind, key, argument, time)
        self.operations.append(operation)
        return operation

    def of_kind(self, *kinds: str) -> list[Operation]:
        """The operations of these kinds, in order."""
        return [operation for operation in self.operations if operation.kind in kinds]

    def counts(self) -> dict[str, int]:
        """How many operations ended in each way."""
        return {
            outcome.value: sum(operation.outcome is outcome for operation in self.operations) for outcome in Outcome
        }
