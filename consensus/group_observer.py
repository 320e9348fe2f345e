"""A group's node while it copies the committed log from peers: whom it asks, and how answers become its log."""

from __future__ import annotations

import random

from consensus.group_core import GroupCore
from consensus.group_effects import Fenced
from consensus.log_records import GroupWrite
from consensus.pull import Piece, PullAnswer, PulledSnapshot, Puller


class Observer:
    """Always there: a replica that hears no leader asks its peers, too, whether the group went on without it.

    Args:
        core: What it shares with the other mode.
        rng: For jitter and for whom to ask first.
    """

    def __init__(self, core: GroupCore, rng: random.Random) -> None:
        self._core = core
        self._committed = 0  # what the peers said is committed, as far as it was copied
        self.puller = Puller(core.mesh_id, core.group, core.log.epoch, position=core.position, rng=rng)

    def answered(self, number: int, answer: PullAnswer | Piece, *, observing: bool) -> bool:
        """A peer answered.

        Returns:
            True: there is news for a replica, which has to become an observer to take it (`answered` again does so).
        """
        taken = self.puller.answered(self._core.now, number, answer)
        if isinstance(taken, PullAnswer):
            return self._take(taken, observing=observing)
        if isinstance(taken, PulledSnapshot):
            self._take_snapshot(taken, observing=observing)
        return False

    def take(self, answer: PullAnswer) -> None:
        """Take what was news for a replica that has become an observer."""
        self._take(answer, observing=True)

    def advance(self) -> None:
        """Apply what was copied and is durable by now, then ask for more."""
        core = self._core
        log = core.log.mirror
        if self._committed > core.machine.applied:
            core.apply(log.entries(core.machine.applied + 1, min(self._committed, log.last)))
        self.puller.epoch = core.log.epoch
        self.puller.go_on(core.now)

    def _take(self, answer: PullAnswer, *, observing: bool) -> bool:
        core = self._core
        news = answer.commit > core.machine.applied and bool(answer.entries or answer.use_snapshot)
        if not observing:
            core.hear_tell(answer.leader, answer.heard_ms_ago / 1000)
            self.puller.go_on(core.now)
            return news and core.log.is_quiet
        core.heard_at = max(core.heard_at, core.now - answer.heard_ms_ago / 1000)
        core.leader = answer.leader
        core.term_seen = max(core.term_seen, answer.term)
        if answer.entries and core.log.is_quiet and answer.entries[0].index <= core.machine.applied + 1:
            self._copy(answer)
        elif not answer.use_snapshot:
            self.puller.go_on(core.now)
        return False

    def _copy(self, answer: PullAnswer) -> None:
        """Write what is not there yet; a tail that was never committed gives way to what was."""
        core = self._core
        log = core.log.mirror
        missing = [entry.index for entry in answer.entries if log.term_at(entry.index) != entry.term]
        self._committed = min(answer.commit, answer.entries[-1].index)
        newer_epoch = answer.epoch if answer.epoch > core.log.epoch else 0
        if not missing and not newer_epoch:
            return
        first = missing[0] if missing else log.last + 1
        if newer_epoch and first <= log.last:
            # Its log is moved aside as a whole: nothing of what the old epoch said is thrown away (rule T5).
            core.events.append(Fenced(f"entries from {first} on were never agreed on in epoch {newer_epoch}"))
            return
        write = GroupWrite(
            core.group,
            truncate_from=first if first <= log.last else None,
            entries=tuple(entry for entry in answer.entries if entry.index >= first),
            epoch=newer_epoch,
        )
        core.log.queue(write)

    def _take_snapshot(self, pulled: PulledSnapshot, *, observing: bool) -> None:
        core = self._core
        wanted = observing and core.log.is_quiet and pulled.meta.index > core.machine.applied
        if not wanted or not core.install(pulled.meta, pulled.payload):
            self.puller.go_on(core.now)
