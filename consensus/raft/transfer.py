"""Handing leadership over: wait until the target has the whole log, then tell it to campaign at once.

While it lasts the leader takes no proposals, so that the target can catch up (hashicorp/raft #581); after one
election timeout it goes on as before. The target's election skips the pre-vote and CheckQuorum's refusal (thesis
§3.10, pitfall 8).
"""

from __future__ import annotations

from math import inf

from consensus.raft.core import Core
from consensus.raft.messages import TimeoutNow
from consensus.raft.outputs import TransferEnded
from consensus.raft.progress import Progress
from mesh.names import NodeId


class Transfer:
    """At most one at a time."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.target: NodeId | None = None
        self.deadline = inf
        self._told = False

    def start(self, target: NodeId) -> None:
        self.target = target
        self.deadline = self._core.now + self._core.election_max_s
        self._told = False

    def check(self, peer: Progress | None) -> None:
        """Tell the target as soon as it has everything; once, as a second election would unseat it again."""
        if self.target is None or self._told or peer is None:
            return
        if peer.match == self._core.log.last_index:
            self._told = True
            self._core.send(self.target, TimeoutNow())

    def tick(self) -> None:
        if self.deadline <= self._core.now:
            self.end(done=False)

    def end(self, *, done: bool) -> None:
        """Over: another one leads, or the time is up."""
        if self.target is not None:
            self._core.emit(TransferEnded(self.target, done))
        self.target = None
        self.deadline = inf
