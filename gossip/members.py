"""The members as this node sees them: what was stated about each, which statement wins, whom to probe next.

The precedence, in one table (pitfall 34). Of two statements about a member the one with the higher rank holds,
rank = (incarnation, severity):

    statement      severity   made by
    Claim          0          the member itself, signed; HERE, AWAY or LEFT
    Suspect        1          anyone, about the claim inside it
    Dead           2          anyone, about the claim inside it

So Claim(i) beats everything at j < i, Suspect(i) beats Claim(j <= i), Dead(i) beats both at j <= i; merging in any
order, any number of times, ends in the same statement. Besides: a LEFT claim cannot be accused, an AWAY claim not
before its time has passed.

Who is a member at all comes from the ledger alone; a statement about anybody else is refused.

Source: SWIM (DSN'02) §4.2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from gossip.messages import CLAIM_DOMAIN, Claim, Dead, Standing, Statement, Suspect, signed_bytes
from mesh.names import NodeId

DETOURS = 2
"""Probes that only a helper brought to a member, before it is said that the direct way is cut."""

Verify = Callable[[bytes, bytes, bytes, bytes], bool]
"""(public key, domain, message, signature) -> whether the owner of the key signed it."""


class MemberState(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    DOWN = "down"
    LEFT = "left"
    AWAY = "away"
    UNKNOWN = "unknown"  # in the ledger, and never heard of since this node started


class Applied(Enum):
    """What became of a statement."""

    NEWER = "newer"
    CONFIRMS = "confirms"  # another accuser of what is suspected already
    STALE = "stale"
    REFUSED = "refused"  # of no member, by no member, without a valid signature, or about somebody not accusable


def claim_of(statement: Statement) -> Claim:
    """The claim that a statement is, or is about."""
    return statement if isinstance(statement, Claim) else statement.claim


def severity(statement: Statement) -> int:
    """The second half of a statement's rank."""
    match statement:
        case Claim():
            return 0
        case Suspect():
            return 1
        case Dead():
            return 2


def rank(statement: Statement | None) -> tuple[int, int]:
    """What statements about one member are compared by; nothing stated is below everything."""
    if statement is None:
        return (0, 0)
    return (claim_of(statement).body.incarnation, severity(statement))


def accusable(claim: Claim, wall_ms: int) -> bool:
    """Whether somebody who makes this claim may be suspected now."""
    match claim.body.standing:
        case Standing.HERE:
            return True
        case Standing.AWAY:
            return claim.body.until_ms <= wall_ms
        case Standing.LEFT:
            return False


@dataclass(slots=True)
class Member:
    """One member of the mesh but this node itself."""

    node_id: NodeId
    public_key: bytes
    since: float  # of its present state
    statement: Statement | None = None
    given_up: bool = False  # never heard, and no longer expected: down for us, and told to nobody
    heard_at: float = float("-inf")
    ledger_addresses: tuple[str, ...] = ()
    heard_from: str = ""
    record_told: tuple[int, int] | None = None  # (boot counter, version) of its record by its own last packet
    failures: int = 0  # probes failed in a row: tries another address
    detours: int = 0  # probes in a row that only a helper brought to it

    @property
    def is_indirect(self) -> bool:
        """It lives, and nothing passes between it and this node; once may be a lost datagram."""
        return self.detours >= DETOURS

    @property
    def incarnation(self) -> int:
        return rank(self.statement)[0]

    @property
    def claim(self) -> Claim | None:
        return None if self.statement is None else claim_of(self.statement)

    @property
    def state(self) -> MemberState:
        match self.statement:
            case None:
                return MemberState.DOWN if self.given_up else MemberState.UNKNOWN
            case Suspect():
                return MemberState.SUSPECT
            case Dead():
                return MemberState.DOWN
            case Claim(body=body):
                return STATE_OF[body.standing]

    @property
    def address(self) -> str:
        """Where to send to next: what it claims, what the ledger says, where it was heard; in turn while it fails."""
        claim = self.claim
        claimed = (claim.body.address,) if claim is not None and claim.body.address else ()
        heard = (self.heard_from,) if self.heard_from else ()
        known = tuple(dict.fromkeys(claimed + self.ledger_addresses + heard))
        return known[self.failures % len(known)] if known else ""

    def probed(self, wall_ms: int) -> bool:
        """Whether it takes part in the probe rounds."""
        claim = self.claim
        if claim is None or isinstance(self.statement, Dead):
            return False
        return isinstance(self.statement, Suspect) or accusable(claim, wall_ms)


STATE_OF = {
    Standing.HERE: MemberState.ALIVE,
    Standing.AWAY: MemberState.AWAY,
    Standing.LEFT: MemberState.LEFT,
}


@dataclass(slots=True)
class Members:
    """All members but this node, and the order in which they are probed.

    Args:
        me: This node; statements about it do not end here.
        verify: Checks a claim's signature.
    """

    me: NodeId
    verify: Verify
    rng: random.Random
    refused: int = 0
    my_key: bytes = b""  # this node's own public key, once the ledger told it
    _members: dict[NodeId, Member] = field(default_factory=dict)
    _order: list[NodeId] = field(default_factory=list)
    _position: int = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        """Members of the mesh, this node included."""
        return len(self._members) + 1

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._members

    def get(self, node_id: NodeId) -> Member | None:
        return self._members.get(node_id)

    def live(self) -> int:
        """Members that can confirm or carry something now, this node included."""
        return 1 + sum(member.state in (MemberState.ALIVE, MemberState.SUSPECT) for member in self)

    def replace(self, now: float, keys: Mapping[NodeId, bytes]) -> tuple[frozenset[NodeId], tuple[NodeId, ...]]:
        """Take over the ledger's members.

        Returns:
            Who is no longer there, and who is new (in the order of their ids).
        """
        self.my_key = keys.get(self.me, self.my_key)
        gone = frozenset(self._members) - frozenset(keys)
        for node_id in gone:
            del self._members[node_id]
        self._order = [node_id for node_id in self._order if node_id not in gone]
        fresh = tuple(sorted(node_id for node_id in keys if node_id not in self._members and node_id != self.me))
        for node_id in fresh:
            self._members[node_id] = Member(node_id, keys[node_id], now)
            # A newcomer goes to a random place in the round, so that not all probe it in the same second.
            self._order.insert(self.rng.randint(0, len(self._order)), node_id)
        return gone, fresh

    def next_target(self, wall_ms: int) -> Member | None:
        """The next member to probe: a walk through a shuffled list, reshuffled at its end (SWIM §4.3)."""
        for _ in range(len(self._order)):
            if self._position >= len(self._order):
                self._position = 0
                self.rng.shuffle(self._order)
            member = self._members[self._order[self._position]]
            self._position += 1
            if member.probed(wall_ms):
                return member
        return None

    def sample(
        self, count: int, *, states: frozenset[MemberState], without: NodeId | None = None
    ) -> tuple[Member, ...]:
        """Up to so many different members in these states, at random: shuffle and walk (pitfall 36)."""
        found = [member for member in self if member.state in states and member.node_id != without]
        return tuple(self.rng.sample(found, min(count, len(found))))

    def apply(self, now: float, statement: Statement, *, wall_ms: int) -> Applied:
        """Put a statement about another member in its place; only `Applied.NEWER` changes anything."""
        claim = claim_of(statement)
        member = self._members.get(claim.body.node_id)
        if member is None:
            return self._refuse()
        if not isinstance(statement, Claim):
            if statement.accuser != self.me and statement.accuser not in self._members:
                return self._refuse()
            accused_already = not isinstance(member.statement, Claim) and member.claim == claim
            if not accused_already and not accusable(claim, wall_ms):
                return self._refuse()
        if rank(statement) <= rank(member.statement):
            equal = rank(statement) == rank(member.statement)
            return Applied.CONFIRMS if equal and isinstance(statement, Suspect) else Applied.STALE
        if not self._vouched(member, claim):
            return self._refuse()
        before = member.state
        member.statement = statement
        if member.state is not before:
            member.since = now
        if isinstance(statement, Claim):
            member.failures = 0
        return Applied.NEWER

    def signed_by_me(self, claim: Claim) -> bool:
        """Whether this node (or a copy of it) made that claim."""
        return self.verify(self.my_key, CLAIM_DOMAIN, signed_bytes(claim.body), claim.signature)

    def _vouched(self, member: Member, claim: Claim) -> bool:
        """Whether its owner made that claim; one that is known already need not be verified again."""
        if member.claim == claim:
            return True
        if member.incarnation == claim.body.incarnation:
            return False  # two claims at one incarnation: a clone's; the first one seen holds
        return self.verify(member.public_key, CLAIM_DOMAIN, signed_bytes(claim.body), claim.signature)

    def _refuse(self) -> Applied:
        self.refused += 1
        return Applied.REFUSED
