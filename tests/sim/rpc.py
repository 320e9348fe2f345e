"""Calls between simulated nodes, over the same paths as everything else: lost, late, doubled, as any message.

An answer comes once or never; a caller that has waited long enough is told so. A request that arrives twice is
served twice, which every method of the product must bear (fault N5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mesh.errors import RefusedError
from tests.sim.host import Host
from tests.sim.world import World

Handler = Callable[[str, object, Callable[[object], None]], None]
"""(caller, request, answer): calls `answer` now or later, with a response or an error; raising is answering, too."""


@dataclass(frozen=True, slots=True)
class Call:
    number: int
    life: int
    method: str
    request: object


@dataclass(frozen=True, slots=True)
class Reply:
    number: int
    for_life: int  # the caller's
    response: object


class Rpc:
    """One process's calls and handlers."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host
        self._handlers: dict[str, Handler] = {}
        self._waiting: dict[int, Callable[[object | None], None]] = {}
        self._calls = 0

    def register(self, method: str, handler: Handler) -> None:
        """Serve a method."""
        self._handlers[method] = handler

    def call(
        self, target: str, method: str, request: object, timeout_s: float, done: Callable[[object | None], None]
    ) -> None:
        """Ask another node; `done` gets its response, an error of its, or None when time is up."""
        self._calls += 1
        number = self._calls
        self._waiting[number] = done
        self._world.network.send(self._host.name, target, Call(number, self._host.lives, method, request))
        self._world.later(self._host, timeout_s, lambda: self._finish(number, None))

    def receive(self, source: str, message: Call | Reply) -> None:
        """A call or a reply arrived."""
        if isinstance(message, Reply):
            if message.for_life == self._host.lives:
                self._finish(message.number, message.response)
            return

        def answer(response: object) -> None:
            self._world.network.send(self._host.name, source, Reply(message.number, message.life, response))

        try:
            self._handlers[message.method](source, message.request, answer)
        except RefusedError as error:  # a failed disk is no answer: it ends the process
            answer(error)

    def _finish(self, number: int, response: object | None) -> None:
        done = self._waiting.pop(number, None)
        if done is not None:
            done(response)
