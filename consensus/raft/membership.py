"""Which configuration acts, at which index, and what may follow it.

A configuration acts from the moment its entry is in the log, committed or not, and reverts if the entry is truncated
(thesis §4.1, pitfall 14). A change of voters goes through a joint configuration, in which every decision needs both
majorities; the leader leaves it by a second entry, proposed once the first is applied (thesis §4.3, pitfall 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from consensus.raft import quorum
from consensus.raft.log_view import LogView
from consensus.raft.messages import RAFT, Configuration, EntryKind, LogEntry, SnapshotMeta
from mesh.names import NodeId

CATCH_UP_ENTRIES_MAX = 64
"""A learner this near to the end of the leader's log, one batch, is caught up (pitfall 12)."""


class Membership:
    """The configurations of the log, oldest first; the last one acts."""

    def __init__(self, log: LogView) -> None:
        self._log = log
        self._history: list[tuple[int, Configuration]] = [(log.snapshot.index, log.snapshot.configuration)]
        self.everyone: tuple[NodeId, ...] = ()
        # The whole tail is looked at before any timer can fire, so that a replay never shows a smaller group for a
        # moment (pitfall 16).
        entries = log.entries(log.first_index, log.last_index) if log.last_index >= log.first_index else ()
        self.note_appended(entry for entry in entries if entry.index > log.snapshot.index)
        self._refresh()

    @property
    def current(self) -> Configuration:
        return self._history[-1][1]

    @property
    def current_index(self) -> int:
        return self._history[-1][0]

    @property
    def is_pending(self) -> bool:
        """Whether the acting configuration is not committed yet."""
        return self.current_index > self._log.commit

    def committed(self) -> Configuration:
        return self.at(self._log.commit)

    def at(self, index: int) -> Configuration:
        """The configuration of the log up to `index`; what a snapshot at that index has to carry (pitfall 16)."""
        for position, configuration in reversed(self._history):
            if position <= index:
                return configuration
        raise AssertionError(f"the configuration at {index} is compacted")

    def was_promoted_after(self, node_id: NodeId, index: int) -> bool:
        """Whether this replica became a voter by an entry of our log above `index`, committed or not."""
        before: Configuration | None = None
        for position, configuration in self._history:
            if position > index and configuration.is_voter(node_id) and not (before and before.is_voter(node_id)):
                return True
            before = configuration
        return False

    def note_appended(self, entries: Iterable[LogEntry]) -> bool:
        """Returns whether another configuration acts now."""
        found = False
        for entry in entries:
            if entry.kind is EntryKind.CONFIG:
                self._history.append((entry.index, RAFT.decode(entry.payload, Configuration)))
                found = True
        if found:
            self._refresh()
        return found

    def note_truncated(self, index: int) -> bool:
        """Returns whether another configuration acts now."""
        before = len(self._history)
        while self._history[-1][0] >= index:
            self._history.pop()
        self._refresh()
        return len(self._history) < before

    def note_restored(self, snapshot: SnapshotMeta) -> None:
        """A snapshot was installed: its configuration, and those of a tail that was kept."""
        later = [(index, configuration) for index, configuration in self._history if index > snapshot.index]
        self._history = [(snapshot.index, snapshot.configuration), *later]
        self._refresh()

    def note_compacted(self, snapshot: SnapshotMeta) -> None:
        """Forget the configurations before the one that acts at this snapshot."""
        while len(self._history) > 1 and self._history[1][0] <= snapshot.index:
            self._history.pop(0)

    def _refresh(self) -> None:
        self.everyone = self.current.everyone()

    def may_campaign(self, node_id: NodeId) -> bool:
        """Whether this replica may stand for election.

        A voter of the acting configuration, of either half: should only a voter-to-be hold the newest committed
        entries, nobody else could win. And a voter of the committed one that an uncommitted entry takes out: it may
        be the only one that holds that entry (thesis §4.2.2). A learner never.
        """
        if self.current.is_voter(node_id):
            return True
        return self.is_pending and self.committed().is_voter(node_id)


def next_configuration(
    current: Configuration,
    voters: frozenset[NodeId],
    learners: frozenset[NodeId],
    *,
    is_caught_up: Callable[[NodeId], bool],
    is_alive: Callable[[NodeId], bool],
) -> Configuration | str:
    """The configuration to append for this wish, joint if voters change; or the reason why there is none.

    Args:
        current: The acting one, committed and not joint.
        voters: The voters wanted.
        learners: The learners wanted; who is in neither is removed.
        is_caught_up: Whether the leader has seen this replica near the end of its log.
        is_alive: Whether the leader heard from it within an election timeout.
    """
    if not voters:
        return "a group needs a voter"
    if voters & learners:
        return "a replica is either a voter or a learner"
    wanted = Configuration(voters, frozenset(), learners)
    if wanted == current:
        return "nothing would change"
    for node_id in sorted(voters - current.voters):
        # Promotion is an operation of its own on a learner, never a side effect (pitfall 12).
        if node_id not in current.learners:
            return f"{node_id} has to be a learner first"
        if not is_alive(node_id) or not is_caught_up(node_id):
            return f"{node_id} has not caught up yet"
    if not quorum.is_quorum(wanted, [node_id for node_id in sorted(voters) if is_alive(node_id)]):
        return "the voters that remain would have no live quorum"
    if voters == current.voters:
        return wanted
    return Configuration(voters, current.voters, learners)


def left_configuration(joint: Configuration) -> Configuration:
    """What follows a joint configuration."""
    assert joint.is_joint, "only a joint configuration is left"
    return Configuration(joint.voters, frozenset(), joint.learners)
