"""One probe round: a ping, helpers after the first timeout, the link looked at last.

Source: SWIM (DSN'02) §3.1; nacks: Lifeguard (DSN'18) §III.A; the stream fallback and why it is looked at last (so
that a path on which only datagrams die is reported): memberlist's `probeNode`.
"""

from __future__ import annotations

from enum import Enum

from gossip.messages import Evidence, StreamOutcome
from mesh.names import NodeId


class Verdict(Enum):
    """How a round ended."""

    ACKED = "acked"
    BY_STREAM = "by-stream"  # alive, but no datagram passes
    FAILED = "failed"


class Probe:
    """One round for one target.

    Args:
        sequence: Names the round; acks and nacks repeat it.
        direct_until: When helpers are asked.
        round_until: When the round ends.
        link_closed: Why it was started, for the evidence.
    """

    def __init__(
        self,
        target: NodeId,
        sequence: int,
        *,
        started: float,
        direct_until: float,
        round_until: float,
        regular: bool,
        link_closed: bool = False,
    ) -> None:
        self.target = target
        self.sequence = sequence
        self.started = started
        self.regular = regular
        self.asked = False
        self.stream = StreamOutcome.NOT_TRIED
        self._direct_until = direct_until
        self._round_until = round_until
        self._link_closed = link_closed
        self._helpers: frozenset[NodeId] = frozenset()
        self._nacks: set[NodeId] = set()

    def next_deadline(self) -> float:
        return self._round_until if self.asked else min(self._direct_until, self._round_until)

    def wants_helpers(self, now: float) -> bool:
        """Whether the direct time is over and nobody was asked yet."""
        return not self.asked and now >= self._direct_until

    def ask(self, helpers: tuple[NodeId, ...]) -> None:
        """These were asked to probe for us, and the link too."""
        self.asked = True
        self.stream = StreamOutcome.PENDING
        self._helpers = frozenset(helpers)

    def send_failed(self, now: float) -> None:
        """The ping never left: do not wait for its ack (pitfall 37)."""
        self._direct_until = min(self._direct_until, now)

    def accepts_ack(self, sender: NodeId) -> bool:
        """Whether an ack by this sender ends the round: the target itself, or a helper that was asked."""
        return sender == self.target or sender in self._helpers

    def nack(self, helper: NodeId) -> None:
        """A helper heard nothing either; each counts once."""
        if helper in self._helpers:
            self._nacks.add(helper)

    def stream_result(self, alive: bool) -> None:
        self.stream = StreamOutcome.ALIVE if alive else StreamOutcome.FAILED

    def over(self, now: float) -> bool:
        return now >= self._round_until

    def verdict(self) -> Verdict:
        """How the round ended without an ack."""
        return Verdict.BY_STREAM if self.stream is StreamOutcome.ALIVE else Verdict.FAILED

    def health_change(self) -> int:
        """What a failed round says about *us*: helpers that did not even send a nack are more likely lost by us."""
        return len(self._helpers) - len(self._nacks) if self._helpers else 1

    def evidence(self, now: float) -> Evidence:
        """What an accusation can point to."""
        stream = StreamOutcome.FAILED if self.stream is StreamOutcome.PENDING else self.stream
        waited_ms = round((now - self.started) * 1000)
        return Evidence(waited_ms, len(self._helpers), len(self._nacks), stream, self._link_closed)

    def postpone(self, by_s: float) -> None:
        """We stood still: answers may lie unread, so the round gets its time back."""
        self._direct_until += by_s
        self._round_until += by_s
