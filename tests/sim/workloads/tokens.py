"""API tokens: made once, revoked once, and a revoked one never comes back; another register for the checkers."""

from __future__ import annotations

from collections.abc import Callable

from consensus.ledger_entries import Entry, PutApiToken, RevokeApiToken
from consensus.ledger_state import LedgerState
from consensus.records import ApiToken
from tests.sim.checkers.witness import ABSENT
from tests.sim.workloads.workload import Workload, pick_weighted

PRESENT = "present"


class Tokens(Workload):
    name = "tokens"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._made = 0
        self._known: list[str] = []

    def act(self, client: str, done: Callable[[], None]) -> None:
        host = self.clients.any_host(self.rng)
        what = pick_weighted(self.rng, (("make", 0.4), ("revoke", 0.2), ("look", 0.4)))
        if what == "make" or not self._known:
            self._made += 1
            token_id = f"t{self._made}"
            self._known.append(token_id)
            operation = self.clients.begin(client, "write", token_id, PRESENT)
            self.clients.propose(host, operation, lambda state: make(token_id), done)
        elif what == "revoke":
            token_id = self._known.pop(self.rng.randrange(len(self._known)))
            operation = self.clients.begin(client, "write", token_id, ABSENT)
            self.clients.propose(host, operation, lambda state: RevokeApiToken(token_id), done)
        else:
            token_id = self.rng.choice(self._known)
            operation = self.clients.begin(client, "read", token_id)
            self.clients.read(host, operation, lambda state: seen(state, token_id), done)


def make(token_id: str) -> Entry:
    """The entry that makes the token."""
    return PutApiToken(ApiToken(token_id, token_id, bytes(32), ("read",), 0, 0))


def seen(state: LedgerState, token_id: str) -> str:
    """Whether the token is there."""
    return PRESENT if token_id in state.tokens else ABSENT
