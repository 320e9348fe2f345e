"""What peers said when they closed a link for good (`mesh.last_word`), and what this node makes of it.

The ledger is the only authority (DESIGN idea 2), and a node that was removed is cut off from it: its peers' word is all
that it can get. So it believes as many voters as, with itself, would have made a quorum: the removal was agreed on by
at least so many others, and fewer could not have agreed on it. In a mesh of three that is one voter, which is trusted
as every member is (T4: it may crash, not lie); of five voters it takes two. An epoch that this node knows to be over
says nothing: what was removed in it was given up with it (T5).

That another start of this node lives, one peer proves by having heard both. A start that the ledger has named goes by
the ledger: it ends for such a word only if the peer has read further, and found the other one named.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.ledger import Ledger
from daemon.standing import Standing, beside_another, removed, replaced
from mesh.errors import FreecloudError
from mesh.last_word import LastWord, Reason
from mesh.names import NodeId
from mesh.trust import TrustStore


class Hearsay:
    """Counts who said what, and ends this start when enough have."""

    def __init__(
        self, ledger: Ledger, trust: TrustStore, standing: Standing, stop_with: Callable[[FreecloudError], None]
    ) -> None:
        self._ledger = ledger
        self._trust = trust
        self._standing = standing
        self._stop_with = stop_with
        self._said_removed: set[NodeId] = set()

    def take(self, node_id: NodeId, word: LastWord) -> None:
        """This peer has closed its link to us for good."""
        peer = self._trust.get(node_id)
        mesh = self._ledger.state.mesh
        if peer is None or not peer.trusted or (mesh is not None and word.epoch < mesh.epoch):
            return
        match word.reason:
            case Reason.REMOVED:
                self._said_removed.add(node_id)
                # A node whose memory is gone knows no voters, and goes by the members that it was told to call.
                voters = self._ledger.quorum().voters or self._trust.members()
                if len(self._said_removed.intersection(voters)) >= max(1, len(voters) // 2):
                    self._stop_with(removed())
            case Reason.TWIN | Reason.REPLACED if not self._standing.named.is_set():
                self._stop_with(beside_another(peer.name))
            case Reason.REPLACED if word.index > self._ledger.state.applied:
                # Nobody links with it any more, so it would never read the entry that it has not read yet.
                self._stop_with(replaced(peer.name))
            case _:
                pass
