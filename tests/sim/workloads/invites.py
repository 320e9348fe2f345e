"""Invites: made by a member, then used by more joiners than they admit, at the same instant, through any node.

The joiners are members without a machine; each goes on until it has an answer, with the same key, as a person would.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.ledger_entries import AddInvite, Admit, Entry
from consensus.ledger_state import LedgerState
from consensus.records import BootMark, Invite
from mesh.names import NodeId
from tests.sim.checkers.invites import check_invites
from tests.sim.client import Clients
from tests.sim.history import Outcome
from tests.sim.identities import member, node_id
from tests.sim.workloads.workload import Workload
from tests.sim.world import World

INVITES_MAX = 4
JOINERS_MAX = 4
LIFE_MS = 12 * 3600 * 1000
"""Longer than the clocks' steps, so that a wrong wall clock does not hide the race."""


class Invites(Workload):
    name = "invites"

    def __init__(self, world: World, clients: Clients) -> None:
        super().__init__(world, clients)
        self.uses_max: dict[str, int] = {}
        self._joiners = 0

    def begin(self, names: list[str]) -> None:
        """One issuer is enough; its joiners bring the crowd."""
        super().begin(names[:1])

    def act(self, client: str, done: Callable[[], None]) -> None:
        if len(self.uses_max) >= INVITES_MAX:
            self.busy -= 1
            return
        token_id = f"i{len(self.uses_max) + 1}"
        uses = self.uses_max[token_id] = self.rng.randint(1, 2)
        host = self.clients.any_host(self.rng)
        operation = self.clients.begin(client, "invite", token_id)

        def made() -> None:
            # Even an unknown invite may be there; the joiners find out, all at one instant.
            if operation.outcome in (Outcome.DONE, Outcome.UNKNOWN):
                for _ in range(uses + self.rng.randint(1, JOINERS_MAX - 1)):
                    self._joiners += 1
                    self.busy += 1
                    self._join(f"j{self._joiners}", token_id)
            done()

        issuer = node_id(host.name)
        self.clients.propose(host, operation, lambda state: invite(token_id, uses, issuer, host.clock.wall_ms()), made)

    def _join(self, joiner: str, token_id: str) -> None:
        host = self.clients.any_host(self.rng)
        operation = self.clients.begin(joiner, "join", token_id, joiner)

        def answered() -> None:
            unanswered = operation.outcome in (Outcome.UNKNOWN, Outcome.NOTHING)
            again = unanswered or self.rng.random() < 0.3  # a retry after an answer must get the same one
            if again and not self.stopped:
                self.world.agenda.after(self.world.options.think_s, self._join, joiner, token_id)
            else:
                self.busy -= 1

        self.clients.propose(host, operation, lambda state: admit(joiner, token_id), answered)

    def check(self, final: LedgerState) -> None:
        check_invites(self.clients.history.operations, self.uses_max)
        for token_id, found in final.invites.items():
            if token_id in self.uses_max and len(found.used_by) > found.uses_max:
                raise AssertionError(f"the state itself holds {token_id} as used too often")


def invite(token_id: str, uses: int, issuer: NodeId, now_ms: int) -> Entry:
    """The entry of an invite by the node that was asked for it."""
    return AddInvite(Invite(token_id, bytes(32), uses, now_ms + LIFE_MS, issuer, True, (), used_by=(), voided=False))


def admit(joiner: str, token_id: str) -> Entry:
    """The entry of this joiner's use of the invite."""
    return Admit(token_id, member(joiner, may_vote=False, boot=BootMark(bytes(16), 1, bytes(8))), ())
