"""State-machine safety: what is committed at an index is the same everywhere and for ever (Raft §5.4.3)."""

from __future__ import annotations

from dataclasses import dataclass

from tests.sim.checkers.violation import Violation


@dataclass(frozen=True, slots=True)
class Agreed:
    """One committed entry, as the first node that committed it saw it."""

    term: int
    kind: str
    payload: bytes
    by: str


class CommittedLog:
    """The one history; every node's commits are compared with it."""

    def __init__(self) -> None:
        self.entries: dict[int, Agreed] = {}
        self.last = 0

    def fork(self, kept: int) -> CommittedLog:
        """A history that is this one up to an index, and another one behind it (rule T5)."""
        other = CommittedLog()
        other.entries = {index: entry for index, entry in self.entries.items() if index <= kept}
        other.last = min(self.last, kept)
        return other

    def committed(self, node: str, index: int, term: int, kind: str, payload: bytes) -> None:
        """A node holds this entry for committed."""
        known = self.entries.get(index)
        if known is None:
            self.entries[index] = Agreed(term, kind, payload, node)
            self.last = max(self.last, index)
            return
        if known.term != term or known.payload != payload or known.kind != kind:
            raise Violation(
                "committed",
                f"index {index}: {node} committed an entry of term {term} ({kind}, {len(payload)} bytes), "
                f"{known.by} had committed one of term {known.term} ({known.kind}, {len(known.payload)} bytes)",
            )

    def leader_has(self, node: str, last_index: int) -> None:
        """Leader completeness: a new leader's log reaches at least as far as anything committed so far."""
        if last_index < self.last:
            raise Violation("committed", f"{node} leads with a log up to {last_index}, {self.last} is committed")

    def acknowledged(self, node: str, index: int, payload_part: bytes) -> None:
        """A client was told that its request is at this index; the request's own bytes are in the entry."""
        known = self.entries.get(index)
        if known is None:
            raise Violation("committed", f"{node} acknowledged index {index}, which nobody has committed")
        if payload_part not in known.payload:
            raise Violation("committed", f"{node} acknowledged index {index}, which holds another request")
