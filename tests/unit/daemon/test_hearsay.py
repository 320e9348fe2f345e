"""What peers said last ends a node only when enough of them have said it, and only if they may."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from consensus.ledger import Ledger, Quorum
from consensus.records import BootMark, MeshRecord
from daemon.hearsay import Hearsay
from daemon.standing import Standing
from mesh.errors import FreecloudError
from mesh.last_word import LastWord, Reason
from mesh.names import MeshId, NodeId
from mesh.trust import TrustedPeer, TrustStore

EPOCH, APPLIED = 2, 10


@dataclass
class Facts:
    """As much of a ledger as is asked."""

    voters: tuple[NodeId, ...]
    applied: int = APPLIED
    mesh: MeshRecord | None = field(default_factory=lambda: MeshRecord(MeshId("m"), EPOCH, 1, 0))

    @property
    def state(self) -> Facts:
        return self

    def quorum(self) -> Quorum:
        return Quorum(self.voters, (), False, False)


class Heard:
    """A node `me` among `names`, and how it ended."""

    def __init__(self, names: str, *, voters: str, untrusted: str = "", mesh: bool = True) -> None:
        self.ended: list[str] = []
        self.standing = Standing(BootMark(b"s" * 16, 1, b"n" * 8))
        peers = [TrustedPeer(NodeId(name), b"", name.encode(), name, name not in untrusted, True) for name in names]
        facts = Facts(tuple(NodeId(name) for name in voters))
        if not mesh:
            facts.mesh = None
        self._hearsay = Hearsay(cast(Ledger, cast(Any, facts)), TrustStore(peers), self.standing, self._stop_with)

    def _stop_with(self, error: FreecloudError) -> None:
        self.ended.append(error.stable_code)

    def say(self, who: str, reason: Reason = Reason.REMOVED, epoch: int = EPOCH, index: int = APPLIED) -> list[str]:
        self._hearsay.take(NodeId(who), LastWord(reason, epoch, index))
        return self.ended


@pytest.mark.parametrize(
    ("names", "voters", "needed"),
    [("ab", "a", 1), ("abm", "ab", 1), ("abm", "abm", 1), ("abcm", "abc", 1), ("abcdm", "abcdm", 2), ("abm", "", 1)],
)
def test_a_node_believes_as_many_voters_as_could_have_removed_it(names: str, voters: str, needed: int) -> None:
    heard = Heard(names, voters=voters)
    tellers = [name for name in names if name != "m"]
    for teller in tellers[: needed - 1]:
        assert not heard.say(teller)
        assert not heard.say(teller), "who says it twice is still one"
    assert heard.say(tellers[needed - 1]) == ["fenced.removed"]


def test_the_word_of_a_stranger_an_untrusted_member_or_an_epoch_that_is_over_counts_nothing() -> None:
    heard = Heard("abcdm", voters="abcdm", untrusted="a")
    for reason in Reason:
        assert not heard.say("x", reason)
        assert not heard.say("a", reason)
        assert not heard.say("b", reason, epoch=EPOCH - 1)
    heard.say("c")
    assert not heard.ended
    assert heard.say("d") == ["fenced.removed"]


def test_an_observer_s_word_on_a_removal_counts_nothing_beside_voters() -> None:
    heard = Heard("abcdm", voters="abc")
    assert not heard.say("d")
    assert heard.say("a") == ["fenced.removed"]


@pytest.mark.parametrize("reason", [Reason.TWIN, Reason.REPLACED])
def test_one_witness_of_another_live_start_ends_one_that_the_ledger_does_not_name(reason: Reason) -> None:
    assert Heard("ab", voters="ab").say("a", reason) == ["fenced.clone"]


def test_a_start_that_the_ledger_names_ends_only_for_who_has_read_further() -> None:
    heard = Heard("ab", voters="ab")
    heard.standing.named.set()
    assert not heard.say("a", Reason.TWIN, index=APPLIED + 1)
    assert not heard.say("a", Reason.REPLACED)
    assert heard.say("a", Reason.REPLACED, index=APPLIED + 1) == ["fenced.clone"]


def test_a_node_whose_memory_is_gone_believes_those_that_it_was_told_to_call() -> None:
    heard = Heard("ab", voters="", mesh=False)
    assert heard.say("a") == ["fenced.removed"]
