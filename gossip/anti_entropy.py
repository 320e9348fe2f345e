"""Push-pull: two nodes compare what they know by digests, and exchange whole facts where they differ (rule G3).

The asking side runs a `Conversation`, one request and one reply at a time; the answering side keeps no state. The
usual conversation is one call with 16 bytes. Facts a side lacks because its ledger lacks the member are not sent:
only ids in both are compared.

Source: anti-entropy of "Epidemic Algorithms" (PODC'87) §1.3; push-pull of memberlist, which sends all states each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from gossip.members import Members, rank
from gossip.messages import (
    GOSSIP,
    CompareAll,
    Compared,
    ComparePage,
    FactsDigest,
    FetchFacts,
    MemberFacts,
    Merged,
    PageFacts,
    PushFacts,
    PushPull,
    PushPullReply,
    Statement,
)
from gossip.presence import Presence
from gossip.record import RecordBook
from mesh.errors import ProtocolError
from mesh.names import NodeId

PAGE_DIGESTS_MAX = 500
"""Members compared in one call: 500 × 60 B stays under the 64 KiB of a control message."""

REPLY_BYTES_MAX = 40 * 1024
"""Of facts in one message; a record has up to 4 KiB."""

FETCH_MAX = 64
CONVERSATION_CALLS_MAX = 256
"""A peer that keeps a conversation going for ever is broken; 10,000 members with all records need fewer."""


class Knowledge:
    """All facts of this node, its own included, seen as digests and as wire facts."""

    def __init__(self, members: Members, records: RecordBook, presence: Presence) -> None:
        self._members = members
        self._records = records
        self._presence = presence

    def ids(self) -> list[NodeId]:
        return sorted([member.node_id for member in self._members] + [self._members.me])

    def statement(self, node_id: NodeId) -> Statement | None:
        if node_id == self._members.me:
            return self._presence.claim
        member = self._members.get(node_id)
        return None if member is None else member.statement

    def digest(self, node_id: NodeId) -> FactsDigest:
        incarnation, severity = rank(self.statement(node_id))
        record_boot, record_version = self._records.version(node_id)
        return FactsDigest(node_id, incarnation, severity, record_boot, record_version)

    def summary(self) -> bytes:
        """Equal on two sides that know the same of the same members."""
        total = hashlib.blake2b(digest_size=16)
        for node_id in self.ids():
            total.update(repr(self.digest(node_id)).encode())
        return total.digest()

    def facts(self, node_id: NodeId) -> MemberFacts:
        held = self._records.get(node_id)
        return MemberFacts(node_id, self.statement(node_id), None if held is None else held.signed)

    def better(self, theirs: FactsDigest) -> MemberFacts | None:
        """What we know better than they do."""
        node_id = theirs.node_id
        statement = self.statement(node_id)
        if rank(statement) <= (theirs.incarnation, theirs.severity):
            statement = None
        record = None
        held = self._records.get(node_id)
        if held is not None and self._records.version(node_id) > (theirs.record_boot, theirs.record_version):
            record = held.signed
        return None if statement is None and record is None else MemberFacts(node_id, statement, record)

    def worse(self, theirs: FactsDigest) -> bool:
        """Whether they know something better than we do."""
        return rank(self.statement(theirs.node_id)) < (theirs.incarnation, theirs.severity) or (
            self._records.version(theirs.node_id) < (theirs.record_boot, theirs.record_version)
        )

    def knows(self, node_id: NodeId) -> bool:
        return node_id == self._members.me or node_id in self._members

    def answer(self, request: PushPull, merge: Callable[[MemberFacts], None]) -> PushPullReply:
        """The answering side of every call."""
        match request.step:
            case CompareAll(summary=summary):
                return PushPullReply(Compared(summary == self.summary()))
            case ComparePage(digests=digests):
                return PushPullReply(self._compare(digests))
            case FetchFacts(node_ids=node_ids):
                known = [node_id for node_id in node_ids[:FETCH_MAX] if self.knows(node_id)]
                facts = within(REPLY_BYTES_MAX, (self.facts(node_id) for node_id in known))
                return PushPullReply(PageFacts(facts[-1].node_id if facts else "", facts, ()))
            case PushFacts(facts=facts):
                for fact in facts:
                    merge(fact)
                return PushPullReply(Merged())

    def _compare(self, digests: tuple[FactsDigest, ...]) -> PageFacts:
        facts: list[MemberFacts] = []
        wanted: list[NodeId] = []
        through = ""
        room = REPLY_BYTES_MAX
        for theirs in digests[:PAGE_DIGESTS_MAX]:
            if self.knows(theirs.node_id):
                better = self.better(theirs)
                size = 0 if better is None else size_of(better)
                if size > room and facts:
                    break
                room -= size
                if better is not None:
                    facts.append(better)
                if self.worse(theirs):
                    wanted.append(theirs.node_id)
            through = theirs.node_id
        return PageFacts(through, tuple(facts), tuple(wanted))


class Conversation:
    """The asking side: `request` is what to send next, None when all is said.

    Args:
        wanted: Fetch these members' facts only; empty: compare everything.
        merge: Takes each fact that is learned.
    """

    def __init__(
        self, knowledge: Knowledge, merge: Callable[[MemberFacts], None], *, wanted: tuple[NodeId, ...] = ()
    ) -> None:
        self._knowledge = knowledge
        self._merge = merge
        self._to_fetch = list(wanted)
        self._to_push: list[NodeId] = []
        self._after: str | None = None  # compared up to here; None: no page yet
        self._calls = 0
        self.request: PushPull | None = (
            self._fetch() if wanted else PushPull(CompareAll(knowledge.summary()))
        )

    def receive(self, reply: PushPullReply) -> None:
        """Take the reply to `request` and have the next one.

        Raises:
            ProtocolError: The reply does not fit; the conversation is over.
        """
        asked, self.request = self.request, None
        self._calls += 1
        if asked is None or self._calls > CONVERSATION_CALLS_MAX:
            raise ProtocolError("a push-pull that does not end")
        match asked.step, reply.step:
            case CompareAll(), Compared(equal=equal):
                if equal:
                    return
                self._after = ""
            case ComparePage(digests=digests), PageFacts(through=through, facts=facts, wanted=wanted):
                offered = [digest.node_id for digest in digests]
                if through not in offered:
                    raise ProtocolError("a push-pull reply about other members than were asked for")
                self._after = through
                for fact in facts:
                    self._merge(fact)
                self._to_push.extend(node_id for node_id in wanted if node_id in offered)
            case FetchFacts(), PageFacts(facts=facts):
                for fact in facts:
                    self._merge(fact)
                got = {fact.node_id for fact in facts}
                self._to_fetch = [node_id for node_id in self._to_fetch if node_id not in got] if got else []
            case PushFacts(), Merged():
                pass
            case _:
                raise ProtocolError(f"a {type(reply.step).__name__} may not answer a {type(asked.step).__name__}")
        self.request = self._next()

    def _next(self) -> PushPull | None:
        if self._to_push:
            facts = within(REPLY_BYTES_MAX, (self._knowledge.facts(node_id) for node_id in self._to_push))
            del self._to_push[: len(facts)]
            return PushPull(PushFacts(facts))
        if self._to_fetch:
            return self._fetch()
        if self._after is not None:
            after = self._after
            rest = [node_id for node_id in self._knowledge.ids() if node_id > after][:PAGE_DIGESTS_MAX]
            if rest:
                return PushPull(ComparePage(tuple(self._knowledge.digest(node_id) for node_id in rest)))
        return None

    def _fetch(self) -> PushPull:
        return PushPull(FetchFacts(tuple(self._to_fetch[:FETCH_MAX])))


def size_of(facts: MemberFacts) -> int:
    """Bytes that these facts take in a message, rounded up."""
    statement = 0 if facts.statement is None else len(GOSSIP.encode(facts.statement))
    record = 0 if facts.record is None else len(facts.record.record) + 128
    return 48 + statement + record


def within(budget_bytes: int, facts: Iterable[MemberFacts]) -> tuple[MemberFacts, ...]:
    """The first of the facts that fit; at least one, or nothing would ever move."""
    taken: list[MemberFacts] = []
    for fact in facts:
        budget_bytes -= size_of(fact)
        if budget_bytes < 0 and taken:
            break
        taken.append(fact)
    return tuple(taken)
