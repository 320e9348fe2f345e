"""One whole node in one life: gossip, consensus, client and leader's duties, all of them the product's machines.

The order of a start is the daemon's: disk first (log, then the counter of starts), then the group as the disk has it,
then gossip with the members that the ledger names; then the start is registered in the ledger (rule T3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from consensus.group_effects import Mode
from consensus.ledger_entries import Entry, RegisterBoot
from consensus.ledger_state import LedgerState
from consensus.raft.messages import Envelope
from consensus.records import BootMark, MemberStatus
from mesh.errors import FencedError
from mesh.names import NodeId
from tests.sim.agreeing import Agreeing
from tests.sim.client import Answer
from tests.sim.duties import LeaderDuties
from tests.sim.gossiping import Gossiping
from tests.sim.history import Outcome
from tests.sim.host import Host
from tests.sim.identities import node_id
from tests.sim.oracle import Oracle
from tests.sim.proposing import Proposing
from tests.sim.rpc import Call, Reply, Rpc
from tests.sim.world import World

REGISTER_S = 5.0
READ_S = 1.0
TICK_S = 0.5
"""How often a node looks at what no event tells it: whether it leads and has duties, whom it may ask for the log."""


class Node:
    """The process that the world drives."""

    gossiping: type[Gossiping] = Gossiping

    def __init__(self, world: World, host: Host, oracle: Oracle, names: Mapping[NodeId, str], *, founder: bool) -> None:
        self.life = f"{host.name}.{host.lives}"
        self.name = host.name
        self._world, self._host, self._names = world, host, dict(names)
        self._me = node_id(host.name)
        self._rpc = Rpc(world, host)
        self.agreeing = Agreeing(world, host, self._rpc, oracle, names, self._changed, founder=founder)
        boot = self.agreeing.boot
        self.gossip = self.gossiping(world, host, self._rpc, names, boot.counter, boot.nonce)
        self.proposing = Proposing(world, host, self._rpc, self.agreeing, self._names)
        self.duties = LeaderDuties(world, host, self.agreeing, self.gossip, self._names, self.propose)
        self._reads_waiting = 0
        self._members: dict[NodeId, bytes] = {}
        self._registered = False
        self._is_named = False
        self._look_at = host.clock.monotonic()
        self._rpc.register("ledger.barrier", self._serve_barrier)
        self._barriers: list[tuple[int, Callable[[], None]]] = []
        self._changed()

    @property
    def state(self) -> LedgerState:
        return self.agreeing.state

    # --- the world's calls ------------------------------------------------------------------------------------

    def receive(self, source: str, message: object) -> None:
        if isinstance(message, Envelope):
            self.agreeing.receive(message)
        elif isinstance(message, bytes):
            self.gossip.receive(message)
        else:
            assert isinstance(message, Call | Reply)
            self._rpc.receive(source, message)

    def link_closed(self, peer: str) -> None:
        self.agreeing.link_closed(peer)
        self.gossip.link_closed(peer)

    def wake(self) -> None:
        now = self._host.clock.monotonic()
        if self.agreeing.group.next_deadline() <= now:
            self.agreeing.wake()
        if self.gossip.swim.next_deadline() <= now:
            self.gossip.wake()
        if self.proposing.proposer.next_deadline() <= now:
            self.proposing.wake()
        if now >= self._look_at:
            self._look_at = now + TICK_S
            self.agreeing.set_sources()
            self.agreeing.perform()
            self.proposing.note_change()
            self._register()
            self._judge_standing()
            self.duties.look()

    def next_deadline(self) -> float:
        return min(
            self.agreeing.group.next_deadline(),
            self.gossip.swim.next_deadline(),
            self.proposing.proposer.next_deadline(),
            self._look_at,
        )

    def start_mark(self) -> BootMark:
        return self.agreeing.boot

    def starts_known(self) -> dict[str, BootMark]:
        members = self.state.active_members()
        return {self._names[known]: members[known].boot for known in members if known in self._names}

    def leads(self) -> bool:
        return self.agreeing.group.leader == self._me

    def configurations(self) -> tuple[frozenset[str], ...]:
        configuration = self.agreeing.group.configuration
        halves = (configuration.voters, configuration.voters_outgoing)
        return tuple(frozenset(self._names[voter] for voter in half) for half in halves if half)

    def epoch(self) -> int:
        return self.agreeing.epoch()

    # --- what its clients ask ---------------------------------------------------------------------------------

    def propose(self, entry: Entry, timeout_s: float, done: Callable[[Answer], None]) -> None:
        self.proposing.propose(entry, timeout_s, done)

    def read(self, timeout_s: float, done: Callable[[Answer], None]) -> None:
        deadline = self._host.clock.monotonic() + timeout_s
        self._reads_waiting += 1

        def finished(answer: Answer) -> None:
            self._reads_waiting -= 1
            done(answer)

        self._try_read(deadline, finished)

    def waiting(self) -> int:
        return self.proposing.waiting + self._reads_waiting

    def _try_read(self, deadline: float, done: Callable[[Answer], None]) -> None:
        def answered(index: int | None) -> None:
            if index is not None:
                self._when_applied(index, lambda: done(Answer(Outcome.DONE, self.state.applied, "", self.epoch())))
            elif self._host.clock.monotonic() + 0.1 < deadline:
                self._world.later(self._host, 0.1, lambda: self._try_read(deadline, done))
            else:
                done(Answer(Outcome.NOTHING, 0, "no-quorum"))

        group = self.agreeing.group
        if group.status().mode is Mode.REPLICA:
            self.agreeing.read(lambda ready: answered(self.state.applied if ready else None))
        elif group.leader is None:
            answered(None)
        else:
            request = "barrier"
            self._rpc.call(
                self._names[group.leader],
                "ledger.barrier",
                request,
                READ_S,
                lambda response: answered(response if isinstance(response, int) else None),
            )

    def _serve_barrier(self, source: str, request: object, answer: Callable[[object], None]) -> None:
        self.agreeing.read(lambda ready: answer(self.state.applied if ready else None))

    def _when_applied(self, index: int, action: Callable[[], None]) -> None:
        if self.state.applied >= index:
            action()
        else:
            self._barriers.append((index, action))

    # --- what follows the ledger ------------------------------------------------------------------------------

    def _changed(self) -> None:
        """The state was applied further, or another one leads."""
        self.proposing.note_change()
        self._judge_standing()
        members = {known: member.public_key for known, member in self.state.active_members().items()}
        if members != self._members:
            self._members = members
            self.gossip.set_members(members)
        due = [barrier for barrier in self._barriers if barrier[0] <= self.state.applied]
        self._barriers = [barrier for barrier in self._barriers if barrier[0] > self.state.applied]
        for _, action in due:
            action()

    def _judge_standing(self) -> None:
        """Once the ledger has named this very start, any other name in its place is a later one of another copy."""
        me = self.state.members.get(self._me)
        if me is None:
            return
        self._is_named |= me.boot == self.agreeing.boot
        if self._host.is_copy and not self._is_named and self._world.is_seen_twice(self.name):
            self._world.end(self._host, FencedError("another copy of this home is running", code="fenced.clone"))
        if me.status is MemberStatus.REMOVED or (self._is_named and me.boot != self.agreeing.boot):
            self._world.end(self._host, FencedError("another copy has taken this node's place", code="fenced.clone"))

    def _register(self) -> None:
        """Tell the ledger of this start, until it has it."""
        me = self.state.active_members().get(self._me)
        if me is None or self._registered or me.boot == self.agreeing.boot:
            return
        self._registered = True

        def answered(answer: Answer) -> None:
            if answer.outcome is Outcome.REFUSED and answer.text.startswith("fenced."):
                why = FencedError("the ledger knows another memory of this node", code=answer.text)
                self._world.end(self._host, why)
            self._registered = answer.outcome is Outcome.DONE
            if self._registered:
                self.agreeing.note_registered()

        start = self.agreeing.start
        is_new = self._is_new(me.boot.store_id)
        entry = RegisterBoot(self._me, start.boot, is_new, start.follows, start.copied)
        self.propose(entry, REGISTER_S, answered)

    def _is_new(self, known_store: bytes) -> bool:
        return self.agreeing.boot.store_id != known_store
