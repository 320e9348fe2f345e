"""The one durable write under way: what it holds, what waits for it, and what its end means (pitfalls 1, 2, 26)."""

from __future__ import annotations

from consensus.raft.core import Core
from consensus.raft.messages import HardState
from consensus.raft.outputs import Outgoing, Persist, PersistTicket


class Writes:
    """At most one write at a time; what comes meanwhile goes into the next, together: that is the batching."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.durable = core.hard_state
        self._outstanding: tuple[PersistTicket, HardState] | None = None
        self.since: float | None = None  # when the write under way was handed out
        self._tickets = 0
        self.failed = False

    @property
    def is_stalled(self) -> bool:
        """Whether the disk has been silent for so long that this replica must not lead (fault D8)."""
        limit = self._core.config.disk_stall_s * self._core.pace
        return self.since is not None and self._core.now - self.since > limit

    def take(self) -> tuple[Persist | None, tuple[Outgoing, ...]]:
        """The next write and what may be said after it. Without anything to write, what waits is said now."""
        core = self._core
        if self._outstanding is not None or self.failed:
            return None, ()
        hard_state = core.hard_state
        after = tuple(core.after_persist)
        core.after_persist.clear()
        if hard_state == self.durable and not core.log.is_dirty:
            core.to_send.extend(after)
            return None, ()
        reset, truncate_from, entries = core.log.take_unstable()
        self._tickets += 1
        ticket = PersistTicket(self._tickets, core.term, core.log.last_index)
        self._outstanding = (ticket, hard_state)
        self.since = core.now
        changed = hard_state if hard_state != self.durable else None
        return Persist(ticket, changed, reset, truncate_from, entries), after

    def finish(self, ticket: PersistTicket) -> bool:
        """Returns whether this was the write under way; any other completion is stale and says nothing."""
        if self.failed or self._outstanding is None or self._outstanding[0] != ticket:
            return False
        self.durable = self._outstanding[1]
        self._outstanding = None
        self.since = None
        self._core.log.stabilized()
        return True

    def fail(self) -> None:
        """A durable write failed: nothing that rests on this disk is said any more (fault D2)."""
        self.failed = True
        self._core.after_persist.clear()
