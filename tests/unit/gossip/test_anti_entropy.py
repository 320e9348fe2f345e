"""Push-pull: equal sides say little, unequal ones exchange exactly what differs, broken ones are left."""

from __future__ import annotations

import random

import pytest

from gossip.anti_entropy import REPLY_BYTES_MAX, Conversation, Knowledge, size_of
from gossip.members import Members, MemberState
from gossip.messages import (
    GOSSIP,
    Compared,
    ComparePage,
    FetchFacts,
    MemberFacts,
    PageFacts,
    PushFacts,
    PushPull,
    PushPullReply,
)
from gossip.presence import Presence
from gossip.record import RecordBook
from mesh.errors import ProtocolError
from mesh.names import NodeId
from tests.unit.gossip.network import id_of, public_key, sign_as, verify
from tests.unit.gossip.statements import a_claim, a_death
from tests.unit.gossip.test_record import a_replica, signed

NAMES = "abcdefgh"


class Side:
    """One node's knowledge, with real signatures."""

    def __init__(self, name: str, names: str = NAMES) -> None:
        self.members = Members(id_of(name), verify, random.Random(1))
        self.members.replace(0.0, {id_of(other): public_key(other) for other in names})
        self.presence = Presence(id_of(name), boot_counter=1, address=f"{name}:1", sign=sign_as(name))
        self.records = RecordBook(
            id_of(name), boot_counter=1, slow_facts_s=10.0, sign=sign_as(name), verify=verify
        )
        self.knowledge = Knowledge(self.members, self.records, self.presence)

    def merge(self, facts: MemberFacts) -> None:
        member = self.members.get(facts.node_id)
        if facts.statement is not None:
            self.members.apply(0.0, facts.statement, wall_ms=0)
        if facts.record is not None and member is not None:
            self.records.accept(0.0, facts.record, member.public_key)

    def talk_to(self, other: Side, *, wanted: tuple[NodeId, ...] = ()) -> list[PushPull]:
        conversation = Conversation(self.knowledge, self.merge, wanted=wanted)
        asked = []
        while conversation.request is not None:
            asked.append(conversation.request)
            request = GOSSIP.decode(GOSSIP.encode(conversation.request), PushPull)
            reply = GOSSIP.encode(other.knowledge.answer(request, other.merge))
            conversation.receive(GOSSIP.decode(reply, PushPullReply))
        return asked


def test_after_a_conversation_both_know_the_same() -> None:
    one, other = Side("a"), Side("b")
    one.members.apply(0.0, a_claim("c", 1), wall_ms=0)
    one.members.apply(0.0, a_claim("d", 5), wall_ms=0)
    one.records.accept(0.0, signed("d", 1, 1), public_key("d"))
    other.members.apply(0.0, a_death("c", 1, "b"), wall_ms=0)
    other.members.apply(0.0, a_claim("d", 4), wall_ms=0)
    other.records.accept(0.0, signed("d", 1, 2), public_key("d"))
    steps = [type(request.step).__name__ for request in one.talk_to(other)]
    assert steps == ["CompareAll", "ComparePage", "PushFacts"]
    assert one.knowledge.summary() == other.knowledge.summary()
    assert one.members.get(id_of("c")).state is MemberState.DOWN  # type: ignore[union-attr]
    assert other.members.get(id_of("d")).incarnation == 5  # type: ignore[union-attr]
    assert other.members.get(id_of("a")).state is MemberState.ALIVE  # type: ignore[union-attr]


def test_equal_sides_say_one_thing() -> None:
    one, other = Side("a"), Side("b")
    one.talk_to(other)
    assert [type(request.step).__name__ for request in one.talk_to(other)] == ["CompareAll"]


def test_a_fetch_brings_what_was_asked_for_and_nothing_else() -> None:
    one, other = Side("a"), Side("b")
    for name in "cd":
        other.members.apply(0.0, a_claim(name, 1), wall_ms=0)
    asked = one.talk_to(other, wanted=(id_of("c"),))
    assert [type(request.step) for request in asked] == [FetchFacts]
    assert one.members.get(id_of("c")).state is MemberState.ALIVE  # type: ignore[union-attr]
    assert one.members.get(id_of("d")).state is MemberState.UNKNOWN  # type: ignore[union-attr]


def test_more_than_fits_a_message_comes_in_several() -> None:
    names = [f"n{number}" for number in range(60)]
    one, other = Side("a"), Side("b")
    for side in (one, other):
        side.members.replace(0.0, {id_of(name): public_key(name) for name in [*NAMES, *names]})
    for name in names:
        other.members.apply(0.0, a_claim(name, 1), wall_ms=0)
        record = signed(name, 1, 1, replicas=tuple(map(a_replica, range(12))))
        assert other.records.accept(0.0, record, public_key(name))
    asked = one.talk_to(other)
    pages = [request for request in asked if isinstance(request.step, ComparePage)]
    assert len(pages) > 2
    assert all(one.records.get(id_of(name)) is not None for name in names)
    back = other.talk_to(Side("c", names="".join(NAMES)))
    assert all(
        sum(map(size_of, request.step.facts)) <= REPLY_BYTES_MAX
        for request in back
        if isinstance(request.step, PushFacts)
    )


def test_members_that_only_one_side_has_are_not_spoken_of() -> None:
    one, other = Side("a", names="abc"), Side("b", names="abcz")
    other.members.apply(0.0, a_claim("z", 1), wall_ms=0)
    one.talk_to(other)
    other.talk_to(one)
    assert one.members.refused == 0
    assert id_of("z") not in one.members


@pytest.mark.parametrize(
    "reply",
    [
        PushPullReply(PageFacts("", (), ())),
        PushPullReply(PageFacts(id_of("z"), (), ())),
        PushPullReply(Compared(equal=True)),
    ],
)
def test_a_reply_that_does_not_fit_ends_the_conversation(reply: PushPullReply) -> None:
    side = Side("a")
    conversation = Conversation(side.knowledge, side.merge)
    conversation.receive(PushPullReply(Compared(equal=False)))
    with pytest.raises(ProtocolError):
        conversation.receive(reply)
    assert conversation.request is None


def test_a_peer_that_always_answers_the_same_page_is_left() -> None:
    side = Side("a")
    conversation = Conversation(side.knowledge, side.merge)
    conversation.receive(PushPullReply(Compared(equal=False)))
    first = side.knowledge.ids()[0]
    with pytest.raises(ProtocolError):
        for _ in range(1000):
            conversation.receive(PushPullReply(PageFacts(first, (), ())))
