"""The client half of a simulated node: proposals from here, exactly once, to whoever leads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from consensus.ledger_entries import LEDGER, Done, Entry, OpenSession, Proposal, Refused, Result
from consensus.raft.outputs import NotLeader, Refusal
from mesh.names import NodeId
from tests.sim.agreeing import Agreeing
from tests.sim.client import Answer
from tests.sim.history import Outcome
from tests.sim.host import Host
from tests.sim.identities import node_id
from tests.sim.rpc import Rpc
from tests.sim.world import World

RETRY_S = 0.1
ATTEMPT_S = 1.5


@dataclass(frozen=True, slots=True)
class Applied:
    """The leader's answer: the entry at this index gave this result."""

    index: int
    result: bytes


@dataclass(slots=True)
class _Request:
    entry: Entry
    deadline: float
    done: Callable[[Answer], None]
    session: bytes = b""
    sequence: int = 0
    doubtful: bool = False  # an attempt may have reached the log


class Proposing:
    """One life's sessions and requests."""

    def __init__(self, world: World, host: Host, rpc: Rpc, agreeing: Agreeing, names: dict[NodeId, str]) -> None:
        self._world, self._host, self._rpc, self._agreeing, self._names = world, host, rpc, agreeing, names
        self._sessions: list[tuple[bytes, int]] = []
        self.waiting = 0
        rpc.register("ledger.propose", self._serve)

    def propose(self, entry: Entry, timeout_s: float, done: Callable[[Answer], None]) -> None:
        """Have the entry applied once; `done` tells what is known of it."""
        self.waiting += 1

        def finished(answer: Answer) -> None:
            self.waiting -= 1
            done(answer)

        request = _Request(entry, self._agreeing.now() + timeout_s, finished)
        self._begin(request)

    def _begin(self, request: _Request) -> None:
        if self._sessions:
            request.session, request.sequence = self._sessions.pop()
            request.sequence += 1
            self._attempt(request)
            return

        def opened(response: object | None) -> None:
            if isinstance(response, Applied):
                result: Result = LEDGER.decode(response.result)
                if isinstance(result, Done):
                    request.session, request.sequence = bytes.fromhex(result.detail), 1
                    self._attempt(request)
                    return
            self._again(request, self._begin)

        self._send(Proposal(node_id(self._host.name), b"", 0, 0, OpenSession()), opened)

    def _attempt(self, request: _Request) -> None:
        def answered(response: object | None) -> None:
            if isinstance(response, Applied):
                self._applied(request, response)
                return
            if not isinstance(response, Refusal):
                request.doubtful = True
            self._again(request, self._attempt)

        proposal = Proposal(node_id(self._host.name), request.session, request.sequence, 0, request.entry)
        self._send(proposal, answered)

    def _applied(self, request: _Request, applied: Applied) -> None:
        result: Result = LEDGER.decode(applied.result)
        if isinstance(result, Refused) and result.code.startswith("session."):
            if request.doubtful:
                request.done(Answer(Outcome.UNKNOWN, 0, result.code))
            else:
                self._begin(request)
            return
        self._sessions.append((request.session, request.sequence))
        if isinstance(result, Refused):
            request.done(Answer(Outcome.REFUSED, applied.index, result.code))
        else:
            request.done(Answer(Outcome.DONE, applied.index, result.detail))

    def _again(self, request: _Request, step: Callable[[_Request], None]) -> None:
        if self._agreeing.now() + RETRY_S < request.deadline:
            self._world.later(self._host, RETRY_S, lambda: step(request))
        elif request.doubtful:
            request.done(Answer(Outcome.UNKNOWN, 0, "outcome-unknown"))
        else:
            if request.session:
                self._sessions.append((request.session, request.sequence - 1))
            request.done(Answer(Outcome.NOTHING, 0, "no-quorum"))

    def _send(self, proposal: Proposal, answered: Callable[[object | None], None]) -> None:
        leader = self._agreeing.group.leader
        if leader is None:
            answered(NotLeader(None, "no leader is known"))
        elif leader == node_id(self._host.name):
            self._serve(self._host.name, proposal, answered)
        else:
            self._rpc.call(self._names[leader], "ledger.propose", proposal, ATTEMPT_S, answered)

    def _serve(self, source: str, request: object, answer: Callable[[object | None], None]) -> None:
        assert isinstance(request, Proposal)

        def settled(index: int, result: bytes | None) -> None:
            answer(None if result is None else Applied(index, result))

        stamped = replace(request, time_ms=self._host.clock.wall_ms())
        refusal = self._agreeing.propose(LEDGER.encode(stamped), settled)
        if refusal is not None:
            answer(refusal)
