"""Replicas agree: the same result and the same state digest at the same index; commit and applied never fall."""

from __future__ import annotations

from tests.sim.checkers.violation import Violation


class ReplicaState:
    """Told of each replica's results, digests, commit and applied index."""

    def __init__(self) -> None:
        self._results: dict[int, tuple[bytes, str]] = {}
        self._digests: dict[int, tuple[bytes, str]] = {}
        self._commit: dict[str, int] = {}
        self._applied: dict[str, int] = {}

    def fork(self, kept: int) -> ReplicaState:
        """What is known of a history that is this one up to an index; the lives that go on are the same."""
        other = ReplicaState()
        other._results = {index: known for index, known in self._results.items() if index <= kept}
        other._digests = {index: known for index, known in self._digests.items() if index <= kept}
        other._commit, other._applied = self._commit, self._applied
        return other

    def digest_at(self, index: int) -> bytes | None:
        """The state's at this index, if anybody has told it."""
        known = self._digests.get(index)
        return None if known is None else known[0]

    def result(self, life: str, index: int, result: bytes) -> None:
        """Applying the entry at this index gave this result."""
        known = self._results.setdefault(index, (result, life))
        if known[0] != result:
            raise Violation("replica-state", f"index {index} gave {life} another result than {known[1]}")

    def digest(self, life: str, index: int, digest: bytes) -> None:
        """The state at this index has this digest."""
        known = self._digests.setdefault(index, (digest, life))
        if known[0] != digest:
            raise Violation("replica-state", f"at index {index} the state of {life} is not that of {known[1]}")

    def commit(self, life: str, index: int) -> None:
        """The commit index of a replica in one life of its process; it never goes back."""
        if index < self._commit.get(life, 0):
            raise Violation("replica-state", f"the commit index of {life} fell from {self._commit[life]} to {index}")
        self._commit[life] = index

    def applied(self, life: str, index: int, *, by_snapshot: bool = False) -> None:
        """The replica applied this index: the next one, unless a snapshot took it further."""
        last = self._applied.get(life)
        if last is not None and (index <= last if by_snapshot else index != last + 1):
            raise Violation("replica-state", f"{life} applied {index} after {last}")
        self._applied[life] = index

    def starts_at(self, life: str, index: int) -> None:
        """A new process begins with the state at this index, restored from its disk."""
        self._applied[life] = index
        self._commit[life] = 0
