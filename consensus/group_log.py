"""What of a group is durable, and what is on its way there.

Writes are given to the driver one at a time, in the order they were queued; what may be said only after a write waits
with it. The mirror changes when the driver says that a write is on the disk. Snapshots are saved beside that, one at a
time, and the log is cut only behind one that is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from consensus.group_effects import SaveSnapshot
from consensus.log_mirror import NOTHING, LogMirror
from consensus.log_records import GroupWrite, Recovered
from consensus.raft.messages import HardState, SnapshotMeta
from consensus.raft.outputs import Outgoing, PersistTicket
from mesh.errors import DamagedError
from mesh.machine import ASLEEP

SNAPSHOT_RETRY_S = 60.0
"""After a snapshot that found the disk full."""


@dataclass(slots=True)
class PendingWrite:
    """A write on its way to the disk, and what may be said when it is there."""

    write: GroupWrite
    ticket: PersistTicket | None = None
    then_send: list[Outgoing] = field(default_factory=list)


class GroupLog:
    """Log, hard state and snapshots of one group.

    Args:
        group: Its number.
        recovered: What the log store had.
        snapshot: Of the newest readable snapshot; None if there never was one.
        commit_note_s: See `GroupConfig`.

    Raises:
        DamagedError: Entries are missing between snapshot and log.
    """

    def __init__(
        self, group: int, recovered: Recovered, snapshot: SnapshotMeta | None, *, commit_note_s: float
    ) -> None:
        self._group = group
        self._commit_note_s = commit_note_s
        self.hard_state: HardState = recovered.hard_state
        self.epoch = max(1, recovered.epoch)
        self._noted_commit = recovered.commit
        self._commit = recovered.commit
        self.note_at = ASLEEP
        self._queue: deque[PendingWrite] = deque()
        self._given = False
        self._save: SaveSnapshot | None = None
        self._save_given = False
        self._is_install = False
        self._save_after = 0.0
        meta = snapshot or NOTHING
        if recovered.base > meta.index:
            raise DamagedError(
                f"the log of group {group} begins behind entry {recovered.base}",
                why=f"the newest snapshot ends at {meta.index}",
                code="damaged.snapshot",
            )
        self.mirror = LogMirror(recovered.base, recovered.entries, meta)
        if not self.mirror.reaches_snapshot:
            self.mirror = LogMirror(meta.index, (), meta)
            self.queue(GroupWrite(group, reset_to=meta.index))

    # --- writes -----------------------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Nothing is on its way to the disk."""
        return not self._queue and self._save is None

    @property
    def is_writing(self) -> bool:
        return bool(self._queue)

    def queue(
        self, write: GroupWrite, *, ticket: PersistTicket | None = None, then_send: Sequence[Outgoing] = ()
    ) -> None:
        """Have this written after what is queued; the newest known commit index goes with it."""
        if self._commit > self._noted_commit:
            write = replace(write, commit=self._commit)
            self._noted_commit = self._commit
        self.note_at = ASLEEP
        self._queue.append(PendingWrite(write, ticket, list(then_send)))

    def note_commit(self, index: int, now: float) -> None:
        """Everything up to `index` is committed, and in the mirror."""
        self._commit = max(self._commit, index)
        if self._commit > self._noted_commit and self.note_at == ASLEEP:
            self.note_at = now + self._commit_note_s

    def tick(self, now: float) -> None:
        """Note the commit index alone if no other write took it along."""
        if now >= self.note_at and not self._queue:
            self.queue(GroupWrite(self._group))
        elif now >= self.note_at:
            self.note_at = now + self._commit_note_s

    def take_write(self) -> GroupWrite | None:
        """The write to be done now, once."""
        if self._given or not self._queue:
            return None
        self._given = True
        return self._queue[0].write

    def written(self) -> PendingWrite:
        """The write that was taken is durable."""
        assert self._given, "no write was under way"
        self._given = False
        done = self._queue.popleft()
        self.mirror.note_written(done.write)
        self.hard_state = done.write.hard_state or self.hard_state
        self.epoch = done.write.epoch or self.epoch
        return done

    # --- snapshots --------------------------------------------------------------------------------------------

    def wants_snapshot(self, applied: int, every: int, now: float) -> bool:
        """Whether enough was applied since the last one, and none is on its way."""
        return self._save is None and applied - self.mirror.snapshot.index >= every and now >= self._save_after

    def save(self, meta: SnapshotMeta, payload: bytes, *, is_install: bool = False) -> None:
        """Have a snapshot saved: of our own state, or one from elsewhere that is to be installed."""
        assert self._save is None or is_install, "one snapshot at a time"
        self._save = SaveSnapshot(meta, payload)
        self._save_given = False
        self._is_install = is_install

    def take_save(self) -> SaveSnapshot | None:
        """The snapshot to be saved now, once."""
        if self._save is None or self._save_given:
            return None
        self._save_given = True
        return self._save

    def saved(self, meta: SnapshotMeta) -> tuple[SaveSnapshot, bool] | None:
        """It is durable. Returns it, and whether it is to be installed; None if another one is wanted by now."""
        if self._save is None or self._save.meta != meta:
            return None
        save, self._save = self._save, None
        if meta.index >= self.mirror.snapshot.index:
            self.mirror.note_snapshot(meta)
        return save, self._is_install

    def not_saved(self, meta: SnapshotMeta, now: float) -> bool:
        """The disk was full. Returns whether it was to be installed."""
        if self._save is None or self._save.meta != meta:
            return False
        self._save = None
        self._save_after = now + SNAPSHOT_RETRY_S
        return self._is_install
