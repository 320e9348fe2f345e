"""The client half of a simulated node: the real `Proposer`, with the world's calls for a network.

What `consensus/proposals.py` does with trio is done here with the agenda: attempts go to whoever leads, or are taken
here; a request that is appended waits for what the group says of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consensus.group_effects import Mode
from consensus.ledger_entries import Done, Entry, Refused
from consensus.proposer import Attempt, Decided, Expired, Proposer, Rejected, Unknown
from consensus.proposer import Outcome as Ending
from consensus.proposing import (
    Answer,
    NotTaken,
    ProposeAnswer,
    ProposeRequest,
    not_taken,
    proposal_payload,
    settled_answer,
)
from consensus.raft.outputs import Refusal
from mesh.names import NodeId
from tests.sim import client
from tests.sim.agreeing import Agreeing
from tests.sim.history import Outcome
from tests.sim.host import Host
from tests.sim.identities import node_id
from tests.sim.rpc import Rpc
from tests.sim.world import World

Tell = Callable[[client.Answer], None]


@dataclass(frozen=True, slots=True)
class Told:
    """An answer on its way, with what the checkers have to know of it: which epoch's indexes it speaks of."""

    answer: ProposeAnswer
    epoch: int


class Proposing:
    """One life's requests, and those of others that arrive here."""

    def __init__(self, world: World, host: Host, rpc: Rpc, agreeing: Agreeing, names: Mapping[NodeId, str]) -> None:
        self._world, self._host, self._rpc, self._agreeing, self._names = world, host, rpc, agreeing, names
        self._me = node_id(host.name)
        self.proposer = Proposer(random.Random(f"{world.options.seed}:proposer:{agreeing.life}"))
        self._tokens = 0
        self._told: dict[int, Tell] = {}
        self._answered_in = 0  # the epoch of the newest answer
        rpc.register("ledger.propose", self._serve)

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._told)

    def propose(self, entry: Entry, timeout_s: float, done: Tell) -> None:
        """Have the entry applied once; `done` tells what is known of it, at the deadline at the latest."""
        self._tokens += 1
        self._told[self._tokens] = done
        now = self._agreeing.now()
        self.proposer.submit(now, self._tokens, entry, now + timeout_s)
        self._perform()

    def note_change(self) -> None:
        """The leader, or this node's part in the group, may be another."""
        now = self._agreeing.now()
        group = self._agreeing.group
        self.proposer.set_leader(now, group.leader)
        self.proposer.set_candidates(now, () if group.mode is Mode.REPLICA else self._agreeing.sources())
        self._perform()

    def wake(self) -> None:
        self.proposer.tick(self._agreeing.now())
        self._perform()

    def _perform(self) -> None:
        output = self.proposer.take_output()
        for finished in output.finished:
            told = self._told.pop(finished.token, None)
            if told is not None:
                told(answer_of(finished.outcome, self._answered_in))
        for attempt in output.attempts:
            self._try(attempt)

    def _try(self, attempt: Attempt) -> None:
        def answered(response: object | None) -> None:
            now = self._agreeing.now()
            if isinstance(response, Told):
                self._answered_in = response.epoch
                self.proposer.answered(now, attempt.number, response.answer.answer)
            else:
                self.proposer.failed(now, attempt.number, arrived=True, reason="no answer came")
            self._perform()

        if attempt.to == self._me:
            # Not within the call that made the attempt: the machine is in the middle of its own thoughts.
            self._world.later(self._host, 0.0, lambda: self._take(self._me, attempt.request, answered))
        else:
            timeout_s = max(0.0, attempt.deadline - self._agreeing.now())
            self._rpc.call(self._names[attempt.to], "ledger.propose", attempt.request, timeout_s, answered)

    def _serve(self, source: str, request: object, answer: Callable[[object], None]) -> None:
        assert isinstance(request, ProposeRequest)
        self._take(node_id(source), request, answer)

    def _take(self, proposer: NodeId, request: ProposeRequest, answer: Callable[[object], None]) -> None:
        """If this node leads: append the request, and wait for what becomes of it."""

        def told(one: Answer) -> None:
            answer(Told(ProposeAnswer(one), self._agreeing.epoch()))

        group = self._agreeing.group
        if not group.is_leader:
            leader = group.leader if group.leader != self._me else None
            told(NotTaken(leader, "this node does not lead", for_good=False))
            return
        payload = proposal_payload(proposer, request, self._host.clock.wall_ms())
        refusal = self._agreeing.propose(payload, lambda index, result: told(settled_answer(index, result)))
        if isinstance(refusal, Refusal):
            told(not_taken(refusal))


def answer_of(ending: Ending, epoch: int) -> client.Answer:
    """How a request's end looks to a client."""
    match ending:
        case Decided(index=index, result=Done(detail=detail)):
            return client.Answer(Outcome.DONE, index, detail, epoch)
        case Decided(index=index, result=Refused(code=code)):
            return client.Answer(Outcome.REFUSED, index, code, epoch)
        case Expired(reason=reason) | Rejected(reason=reason):
            return client.Answer(Outcome.NOTHING, 0, reason)
        case Unknown(reason=reason):
            return client.Answer(Outcome.UNKNOWN, 0, reason)
    raise AssertionError(f"no such ending: {ending}")
