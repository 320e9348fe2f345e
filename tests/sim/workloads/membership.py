"""Operators: who may vote changes, nodes drain and return, joiners that never came alive are removed.

What follows from it (a voter becomes a learner, another takes its place) is the leader's duty, and runs under all
faults. A removed member never comes back.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.ledger_entries import ChangeMember, Entry, RemoveMember
from consensus.ledger_state import LedgerState
from consensus.records import MemberStatus
from mesh.names import NodeId
from tests.sim.checkers.violation import Violation
from tests.sim.client import Clients
from tests.sim.history import Operation, Outcome
from tests.sim.identities import node_id
from tests.sim.workloads.workload import Workload, pick_weighted
from tests.sim.world import World

ELIGIBLE_MIN = 3
"""Operators leave at least so many nodes that can be voters now: a group of two does not survive a lost disk, which is
what lost majorities are for (rule T5), and not what is tested here."""

PAUSES = 6
"""Operators think so much longer than other clients."""


class Membership(Workload):
    name = "membership"

    def __init__(self, world: World, clients: Clients) -> None:
        super().__init__(world, clients)
        self._removals: list[Operation] = []

    def begin(self, names: list[str]) -> None:
        """One operator."""
        super().begin(names[:1])

    def pause(self, client: str) -> None:
        self.world.agenda.after(self.rng.expovariate(1.0 / (PAUSES * self.world.options.think_s)), self._turn, client)

    def act(self, client: str, done: Callable[[], None]) -> None:
        host = self.clients.any_host(self.rng)
        subject = self.rng.choice(list(self.world.hosts))
        what = pick_weighted(self.rng, (("vote", 0.5), ("drain", 0.25), ("remove", 0.25)))
        operation = self.clients.begin(client, what, subject)
        turn = self.rng.random()
        entry: Callable[[LedgerState], Entry | None]
        match what:
            case "vote":
                entry = lambda state: toggle_vote(state, node_id(subject))  # noqa: E731 - one of three
            case "drain":
                entry = lambda state: toggle_drain(state, node_id(subject))  # noqa: E731
            case _:
                entry = lambda state: self._remove(state, turn)  # noqa: E731

        def answered() -> None:
            if what == "remove":
                self._removals.append(operation)
            done()

        def made(state: LedgerState) -> Entry | None:
            found = entry(state)
            if isinstance(found, RemoveMember):
                operation.argument = found.node_id
            return found

        self.clients.propose(host, operation, made, answered)

    def _remove(self, state: LedgerState, turn: float) -> Entry | None:
        machines = {node_id(name) for name in self.world.hosts}
        ghosts = sorted(known for known in state.active_members() if known not in machines)
        return RemoveMember(ghosts[int(turn * len(ghosts))], "never seen") if ghosts else None

    def check(self, final: LedgerState) -> None:
        for removal in self._removals:
            if removal.outcome is not Outcome.DONE:
                continue
            if final.members[NodeId(removal.argument)].status is not MemberStatus.REMOVED:
                raise Violation("membership", f"{removal.argument} was removed and is a member again")


def toggle_vote(state: LedgerState, subject: NodeId) -> Entry | None:
    """Take the right to vote from this node or give it, but leave enough that have it."""
    member = state.active_members().get(subject)
    if member is None or (member.may_vote and len(eligible(state) - {subject}) < ELIGIBLE_MIN):
        return None
    return change(subject, may_vote=not member.may_vote)


def toggle_drain(state: LedgerState, subject: NodeId) -> Entry | None:
    """Let this node drain, or end it."""
    member = state.active_members().get(subject)
    if member is None:
        return None
    draining = member.status is not MemberStatus.DRAINING
    if draining and len(eligible(state) - {subject}) < ELIGIBLE_MIN:
        return None
    return change(subject, draining=draining)


def eligible(state: LedgerState) -> set[NodeId]:
    """Who could be a voter, as the ledger knows it."""
    return {
        known
        for known, member in state.active_members().items()
        if member.may_vote and member.status is MemberStatus.ACTIVE and not member.relearn and known not in state.outs
    }


def change(subject: NodeId, *, may_vote: bool | None = None, draining: bool | None = None) -> Entry:
    """A `ChangeMember` of these fields alone."""
    return ChangeMember(
        node_id=subject,
        labels=None,
        zone=None,
        draining=draining,
        may_invite=None,
        may_vote=may_vote,
        away_until_ms=None,
        addresses=None,
        feature_level=None,
    )
