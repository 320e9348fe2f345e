"""The ledger's state machine with a witness: each apply is told to the oracle; nothing else is changed."""

from __future__ import annotations

from collections.abc import Callable

from consensus.ledger_state import LedgerState
from tests.sim.oracle import Oracle

DIGEST_EVERY = 8
"""Digests are compared at each index that this divides; a digest costs a snapshot."""


class ObservedState(LedgerState):
    """One life's copy of the ledger."""

    def __init__(self, oracle: Oracle, life: str, epoch: Callable[[], int]) -> None:
        super().__init__()
        self._oracle = oracle
        self._life = life
        self._epoch = epoch
        self._started = False
        self._is_witnessed = oracle.takes(life)  # the first of a life; others only try whether a snapshot is whole

    def apply(self, index: int, term: int, payload: bytes) -> bytes:
        self._begin()
        epoch = self._epoch()
        self._oracle.branch(epoch).log.committed(self._life, index, term, "normal", payload)
        result = super().apply(index, term, payload)
        self._oracle.applied(self._life, epoch, index, result)
        self._compare(index)
        return result

    def advance(self, index: int) -> None:
        self._begin()
        epoch = self._epoch()
        self._oracle.branch(epoch).log.committed(self._life, index, 0, "raft's own", b"")
        super().advance(index)
        self._oracle.applied(self._life, epoch, index, b"")
        self._compare(index)

    def restore(self, payload: bytes) -> None:
        super().restore(payload)
        if not self._is_witnessed:
            return
        if self._started:
            self._oracle.newest.replicas.applied(self._life, self.applied, by_snapshot=True)
        else:
            self._started = True
            self._oracle.newest.replicas.starts_at(self._life, self.applied)
        self._oracle.restored(self._life, self.applied, self.digest())

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            self._oracle.newest.replicas.starts_at(self._life, self.applied)

    def _compare(self, index: int) -> None:
        if index % DIGEST_EVERY == 0:
            self._oracle.branch(self._epoch()).replicas.digest(self._life, index, self.digest())
