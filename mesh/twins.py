"""Two live starts of one node, seen by a peer that has a link to each: which of them may stay (rule T3).

A node that was started anew dials while its old link has not been noticed to be dead, and that is the usual case: so
the older start is asked for a sign of life, and only one that answers after the other came is a twin. Of two that live,
the one that the ledger names stays; of two that it does not name, every peer chooses the same.
"""

from __future__ import annotations

from mesh.hello import Hello
from mesh.last_word import Reason

PROOF_S = 1.0
"""For one round trip to a process that is said to live; a paused one counts as gone, and hears of it by the ledger."""


def same_start(one: Hello, other: Hello) -> bool:
    """Whether both are of one start of the node."""
    return (one.boot_counter, one.boot_nonce) == (other.boot_counter, other.boot_nonce)


def older_stays(old: Hello, new: Hello, named_nonce: bytes) -> bool:
    """Which of two starts that both live may stay: True for the one that was linked first.

    Args:
        named_nonce: Of the start that the ledger names, as far as this node has applied it.
    """
    if named_nonce == new.boot_nonce:
        return False
    return named_nonce == old.boot_nonce or old.boot_nonce <= new.boot_nonce


def why_not(stays: Hello, named_nonce: bytes) -> Reason:
    """What the start that may not stay is told."""
    return Reason.REPLACED if stays.boot_nonce == named_nonce else Reason.TWIN
