"""How workloads reach the cluster: a request to a node that they choose, one answer, all of it in the history."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from consensus.ledger_entries import Entry
from consensus.ledger_state import LedgerState
from tests.sim.history import History, Operation, Outcome
from tests.sim.host import Host
from tests.sim.world import World

PATIENCE = 1.5
"""A client waits for its deadline times this, in true time, before it takes the node for gone."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answers: `text` is the result's detail, a refusal's code, or an error's code."""

    outcome: Outcome
    revision: int
    text: str
    epoch: int = 0  # of the ledger that the revision is of


class Api(Protocol):
    """What a node's process offers to its own clients."""

    state: LedgerState

    def propose(self, entry: Entry, timeout_s: float, done: Callable[[Answer], None]) -> None:
        """Have this entry agreed on; `done` is called once, or never if the process ends before."""

    def read(self, timeout_s: float, done: Callable[[Answer], None]) -> None:
        """A barrier: when `done` is called, `state` is as new as any write finished before. The revision is its."""

    def waiting(self) -> int:
        """How many requests have no answer yet."""


class Clients:
    """Sends the workloads' requests and writes down what comes of them."""

    def __init__(self, world: World) -> None:
        self.history = History()
        self.asked: dict[tuple[str, int], Operation] = {}
        self._world = world

    def api(self, host: Host) -> Api | None:
        """The API of the host's process, if it runs."""
        process = host.process
        return None if process is None else process  # type: ignore[return-value]  # the world's processes are nodes

    def any_host(self, rng: random.Random) -> Host:
        """Any host, running or not: clients do not know. In the calm, one of the core."""
        names = sorted(self._world.calm_core) or list(self._world.hosts)
        return self._world.hosts[rng.choice(names)]

    def propose(
        self,
        host: Host,
        operation: Operation,
        entry: Callable[[LedgerState], Entry | None],
        done: Callable[[], None],
    ) -> None:
        """Send a request to this host; `entry` makes it from the state that the node shows, or gives up with None."""
        finish = self._finisher(operation, done)

        def arrive(api: Api) -> None:
            made = entry(api.state)
            if made is None:
                self._refuse(finish)
            else:
                api.propose(made, self._world.options.request_s, finish)

        self._send(host, arrive, finish)

    def read(
        self, host: Host, operation: Operation, look: Callable[[LedgerState], str], done: Callable[[], None]
    ) -> None:
        """Read through a barrier at this host; `look` finds the value in its state."""
        finish = self._finisher(operation, done)

        def arrive(api: Api) -> None:
            state = api.state

            def looked(answer: Answer) -> None:
                text = look(state) if answer.outcome is Outcome.DONE else answer.text
                finish(replace(answer, text=text))

            api.read(self._world.options.request_s, looked)

        self._send(host, arrive, finish)

    def _send(self, host: Host, arrive: Callable[[Api], None], finish: Callable[[Answer], None]) -> None:
        api = self.api(host)
        if api is None:
            self._refuse(finish)
            return
        # A process that stands still gets it when it goes on, as from a socket's buffer.
        self._world.later(host, 0.0, lambda: arrive(api))
        self._give_up_later(finish, Outcome.UNKNOWN)

    def begin(self, client: str, kind: str, key: str, argument: str = "") -> Operation:
        """Note that a client sends this."""
        operation = self.history.begin(self._world.agenda.now, client, kind, key, argument)
        self._world.note(client, "op", f"{operation.number} {kind} {key} {argument}")
        return operation

    def _refuse(self, finish: Callable[[Answer], None]) -> None:
        """Nobody was there: later than now, or a client that is never answered would ask for ever at one instant."""
        self._world.agenda.after(0.01, finish, Answer(Outcome.NOTHING, 0, "unreachable"))

    def _give_up_later(self, finish: Callable[[Answer], None], outcome: Outcome) -> None:
        patience = self._world.options.request_s * PATIENCE + 1.0
        self._world.agenda.after(patience, finish, Answer(outcome, 0, "no answer"))

    def _finisher(self, operation: Operation, done: Callable[[], None]) -> Callable[[Answer], None]:
        def finish(answer: Answer) -> None:
            if operation.outcome is not Outcome.OPEN:
                return  # the client has given up already, or is told twice
            now = self._world.agenda.now
            operation.finish(now, answer.outcome, revision=answer.revision, answer=answer.text, epoch=answer.epoch)
            detail = f"{operation.number} {operation.kind} {operation.key} {answer.outcome.value} {answer.text}"
            self._world.note(operation.client, "done", detail, index=answer.revision)
            done()

        return finish
