"""The last thing that a node says to a peer whose link it closes for good: why (rules T1, T3).

Whoever was removed while it was away, or whose links were closed before it read the entry, would never hear of it: no
link is opened to it any more. So a node that shows the key of a removed member, which only its holder can, is told so,
and nothing else: no hello, no fact of the mesh. A stranger, whose key was never a member's, is told nothing at all.

What a peer says here is its word, not the ledger's; what to make of it is `daemon.hearsay`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.errors import RefusedError
from mesh.framing import LAST_WORD_BYTES_MAX, FrameKind, encode_frame
from mesh.versioned import Codec, Limits

WORDS = Codec(Limits(total_bytes_max=LAST_WORD_BYTES_MAX, text_bytes_max=32, bytes_max=0, items_max=8))


class Reason(Enum):
    REMOVED = "removed"  # the ledger has removed the node that has this key
    TWIN = "twin"  # another start of this node answers; the ledger names neither, and the other one stays
    REPLACED = "replaced"  # another start of this node answers, and the ledger names it


@WORDS.message("link.last-word")
@dataclass(frozen=True, slots=True)
class LastWord:
    reason: Reason
    epoch: int  # of the ledger that the sender goes by
    index: int  # how far it has applied it


class Dismissed(RefusedError):
    """The peer has closed the link for good, and said why."""

    def __init__(self, word: LastWord) -> None:
        super().__init__("the peer does not speak to this node", why=word.reason.value, code="link.dismissed")
        self.word = word


def last_word_frame(word: LastWord) -> bytes:
    """The frame that says it."""
    return encode_frame(FrameKind.LAST_WORD, WORDS.encode(word))


def read_last_word(payload: bytes) -> LastWord:
    """What a peer said last.

    Raises:
        ProtocolError: It is not that.
        UpgradeNeeded: A later version's.
    """
    return WORDS.decode(payload, LastWord)
