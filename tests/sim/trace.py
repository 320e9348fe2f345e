"""The trace of a run: one line a state change, in fixed columns, so that two runs can be compared by `diff`.

    seconds  node what          term  index  detail
      12.345  n2  leader           7     41  …

`what` is one of the words below, or the name of a fault; a line is written when something changed, never because
time passed. Source of the form: TigerBeetle, docs/internals/testing.md.

    up, down         a start (detail: which life) or an end (detail: how)
    leader, follower a role of Raft; `ready` once its own no-op is committed
    commit           the commit index rose
    apply            an entry was applied (sampled out in the printed form unless asked for)
    config           a configuration came into force
    snap             a snapshot was taken, sent or installed
    op, done         a client's operation began or ended
    gossip           a member's state changed in this node's eyes
    phase            safety or liveness begins
"""

from __future__ import annotations

import hashlib


class Trace:
    """Lines, kept in order; `digest` names them all."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, time: float, node: str, what: str, term: int, index: int, detail: str = "") -> None:
        """Add one line; `term` and `index` are 0 where they mean nothing."""
        self.lines.append(f"{time:10.4f} {node:<3} {what:<12} {term:>4} {index:>6}  {detail}".rstrip())

    def text(self) -> str:
        """All lines, each ended by a newline."""
        return "".join(f"{line}\n" for line in self.lines)

    def digest(self) -> str:
        """32 hex digits over the whole text: equal traces have equal digests."""
        return hashlib.blake2b(self.text().encode(), digest_size=16).hexdigest()
