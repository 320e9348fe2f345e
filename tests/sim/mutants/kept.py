"""The seed that caught each planted bug; written by `python -m tests.sim.hunt --keep`."""

from __future__ import annotations

from tests.sim.mutants.mutant import Kept

KEPT: dict[str, Kept] = {
    "vote not fsynced": Kept(1, 0.25, "one-leader"),
    "append acknowledged before fsync": Kept(19, 0.25, "committed"),
    "old-term entry committed by counting": Kept(20, 1.0, "committed"),
    "no-op skipped": Kept(6, 0.25, "witness"),
    "lease from receive time": Kept(40, 1.0, "witness"),
    "learner counted in quorum": Kept(4, 0.5, "liveness"),
    "joint change with one majority": Kept(48, 0.25, "committed"),
    "truncate on short append": Kept(1, 0.25, "liveness"),
    "term of a compacted index is 0": Kept(8, 1.0, "liveness"),
    "snapshot without sessions": Kept(3, 0.25, "replica-state"),
    "removed peer's acknowledgement counts": Kept(36, 0.5, "committed"),
    "fsync error retried": Kept(4, 0.25, "liveness"),
    "refutation dropped": Kept(1, 1.0, "gossip"),
    "alive accepted at equal incarnation": Kept(1, 1.0, "gossip-order"),
    "one accuser counts thrice": Kept(1, 1.0, "gossip-order"),
    "local health never falls": Kept(3, 1.0, "gossip"),
    "invite use checked outside apply": Kept(1, 0.25, "invites"),
    "a new store votes at once": Kept(18, 0.5, "committed"),
    "vote for any log": Kept(4, 0.25, "committed"),
    "a retry runs again": Kept(20, 0.5, "witness"),
}
