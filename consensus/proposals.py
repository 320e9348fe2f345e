"""This node's requests on their way to the leader, and those of others that arrive here: the shell of `Proposer`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import trio

from consensus.group import Group
from consensus.group_effects import GroupOutput, Mode
from consensus.ledger_entries import LEDGER, Entry
from consensus.proposer import Attempt, Outcome, Proposer, ProposerOutput
from consensus.proposing import (
    Answer,
    NotTaken,
    ProposeAnswer,
    ProposeRequest,
    RelayedRequest,
    check_entry,
    not_taken,
    proposal_payload,
    settled_answer,
)
from consensus.waiting import Waiting
from mesh.driver import Driver
from mesh.errors import (
    DeadlineError,
    ExhaustedError,
    FreecloudError,
    MissingError,
    RefusedError,
    UnreachableError,
)
from mesh.mux_events import ANSWERING_S
from mesh.names import NodeId, Role
from mesh.peers import Peers
from mesh.rpc import Caller, Lane, Method, RpcServer, Shape

PROPOSE = Method("ledger.propose", ProposeRequest, ProposeAnswer, LEDGER, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)
RELAY = Method("ledger.relay", RelayedRequest, ProposeAnswer, LEDGER, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)

NEVER_ARRIVED = (UnreachableError, RefusedError, MissingError, ExhaustedError)
"""Errors of a call after which the request certainly was not taken."""


class Proposals:
    """Carries out what the proposer wants, and takes requests when this node leads.

    Args:
        me: This node.
        group: The ledger's.
        peers: How other nodes are asked.
        server: Where the method is registered.
        rng: For the jitter of retries.
        wall_ms: The wall clock that goes into what is appended here.
        sources: Whom an observer asks while it knows no leader, and who brings a request to one out of reach.
        wake: Has the host look at the group.
    """

    def __init__(
        self,
        me: NodeId,
        group: Group,
        peers: Peers,
        server: RpcServer,
        *,
        rng: random.Random,
        wall_ms: Callable[[], int],
        sources: Callable[[], Sequence[NodeId]],
        wake: Callable[[], None],
    ) -> None:
        self._me = me
        self._group = group
        self._peers = peers
        self._wall_ms = wall_ms
        self._sources = sources
        self._wake = wake
        self._rng = rng
        self._proposer = Proposer(rng)
        self._out_of_reach: NodeId | None = None  # the node that an attempt could not be brought to, the last time
        self._driver = Driver(self._proposer, self._perform)
        self._nursery: trio.Nursery | None = None
        self._tokens = itertools.count(1)
        self._settled: dict[int, Waiting[Answer]] = {}
        self._finished: dict[int, Waiting[Outcome]] = {}
        server.register(PROPOSE, self._serve)
        server.register(RELAY, self._serve_relayed)

    async def run(self) -> None:
        """Send and repeat until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._driver.run()

    async def propose(self, entry: Entry, *, deadline: float) -> Outcome:
        """Have this applied once; what is known of it at the deadline at the latest.

        Raises:
            ExhaustedError: Too much is waiting on this node.
            UsageError: It could not be read again once it is written.
        """
        check_entry(entry)
        token = next(self._tokens)
        waiting = self._finished[token] = Waiting[Outcome]()
        try:
            self._proposer.submit(trio.current_time(), token, entry, deadline)
            self._driver.wake()
            return await waiting.wait()
        finally:
            del self._finished[token]

    def take_output(self, output: GroupOutput) -> None:
        """The group has decided about what was appended here."""
        for settled in output.settled:
            if settled.token in self._settled:
                self._settled[settled.token].give(settled_answer(settled.index, settled.result))

    def note_change(self) -> None:
        """The leader, or this node's part in the group, may be another."""
        now = trio.current_time()
        self._proposer.set_leader(now, self._group.leader)
        # A replica without a leader is as likely to hear of one as anybody; an observer has to ask.
        self._proposer.set_candidates(now, () if self._group.mode is Mode.REPLICA else self._sources())
        self._driver.wake()

    async def _perform(self, output: ProposerOutput) -> None:
        assert self._nursery is not None
        for finished in output.finished:
            if finished.token in self._finished:
                self._finished[finished.token].give(finished.outcome)
        for attempt in output.attempts:
            self._nursery.start_soon(self._try, attempt)

    async def _try(self, attempt: Attempt) -> None:
        """One attempt to have a request taken."""
        number, to = attempt.number, attempt.to
        via = self._way_to(to)
        try:
            if to == self._me:
                answer = await self._take(self._me, attempt.request, attempt.deadline)
            elif via == to:
                answered = await self._peers.call(to, PROPOSE, attempt.request, deadline=attempt.deadline)
                answer = answered.answer
            else:
                relayed = RelayedRequest(self._me, attempt.request)
                answered = await self._peers.call(via, RELAY, relayed, deadline=attempt.deadline)
                answer = answered.answer
        except FreecloudError as error:
            arrived = not isinstance(error, NEVER_ARRIVED)
            if isinstance(error, DeadlineError) and to != self._me and via not in self._peers.linked():
                arrived = False  # it was still being dialled
            if via == to and self._peers.silent_s(to) >= ANSWERING_S:
                self._out_of_reach = to
            self._proposer.failed(trio.current_time(), number, arrived=arrived, reason=str(error))
        else:
            self._proposer.answered(trio.current_time(), number, answer)
        self._driver.wake()

    def _way_to(self, to: NodeId) -> NodeId:
        """Itself; or, where nothing passes between it and this node, somebody else who may reach it (fault N3).

        The session sees to it that a request which arrives both ways is applied once.
        """
        if to == self._me:
            return to
        if self._group.is_hearsay or (self._peers.silent_s(to) >= ANSWERING_S and self._out_of_reach == to):
            helpers = [each for each in self._sources() if each != to and self._peers.silent_s(each) < ANSWERING_S]
            return self._rng.choice(helpers) if helpers else to
        return to

    async def _serve_relayed(self, caller: Caller, relayed: RelayedRequest) -> ProposeAnswer:
        """Take a request that was brought here; or bring it to the leader, once, for a node that cannot reach it."""
        leader = self._group.leader
        brings = caller.node_id != relayed.proposer
        if self._group.is_leader or brings or leader is None or leader == caller.node_id:
            return ProposeAnswer(await self._take(relayed.proposer, relayed.request, caller.deadline))
        return await self._peers.call(leader, RELAY, relayed, deadline=caller.deadline)

    async def _serve(self, caller: Caller, request: ProposeRequest) -> ProposeAnswer:
        return ProposeAnswer(await self._take(caller.node_id, request, caller.deadline))

    async def _take(self, proposer: NodeId, request: ProposeRequest, deadline: float) -> Answer:
        """If this node leads: append the request, and wait for what becomes of it."""
        if not self._group.is_leader:
            leader = self._group.leader
            return NotTaken(leader if leader != self._me else None, "this node does not lead", for_good=False)
        token = next(self._tokens)
        payload = proposal_payload(proposer, request, self._wall_ms())
        refusal = self._group.propose(trio.current_time(), token, payload)
        if refusal is not None:
            return not_taken(refusal)
        waiting = self._settled[token] = Waiting[Answer]()
        self._wake()
        try:
            with trio.move_on_at(deadline):
                return await waiting.wait()
            raise DeadlineError("the request was appended and not decided in time")
        finally:
            del self._settled[token]
