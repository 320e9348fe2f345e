"""App secrets as registers: written through the log, read through a read barrier, linearizable.

A key is given up for a fresh one after an unknown write every now and then, which keeps the search of `wgl` short.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.ledger_entries import Entry, PutSecret
from consensus.ledger_state import LedgerState
from consensus.records import SecretRecord
from tests.sim.history import Outcome
from tests.sim.workloads.workload import Workload

KEYS = 3
OPERATIONS_A_KEY = 60


class Registers(Workload):
    name = "registers"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._keys = [f"r{number}" for number in range(KEYS)]
        self._used = dict.fromkeys(self._keys, 0)
        self._values = 0

    def act(self, client: str, done: Callable[[], None]) -> None:
        key = self.rng.choice(self._keys)
        self._count(key)
        host = self.clients.any_host(self.rng)
        if self.rng.random() < 0.5:
            operation = self.clients.begin(client, "read", key)
            self.clients.read(host, operation, lambda state: value_of(state, key), done)
            return
        self._values += 1
        value = f"v{self._values}"
        operation = self.clients.begin(client, "write", key, value)

        def written() -> None:
            if operation.outcome is Outcome.UNKNOWN:
                self._used[key] = self._used.get(key, 0) + OPERATIONS_A_KEY // 6
            done()

        self.clients.propose(host, operation, lambda state: write(state, key, value), written)

    def _count(self, key: str) -> None:
        self._used[key] += 1
        if self._used[key] > OPERATIONS_A_KEY:
            place = self._keys.index(key)
            fresh = f"r{place}.{self._values}"
            self._keys[place] = fresh
            self._used[fresh] = 0


def write(state: LedgerState, key: str, value: str) -> Entry | None:
    """The entry that writes the register."""
    data_key = state.newest_key("data")
    if data_key is None:
        return None
    return PutSecret(SecretRecord(key, data_key.generation, value.encode(), 0))


def value_of(state: LedgerState, key: str) -> str:
    """What the register holds in this state."""
    secret = state.secrets.get(key)
    return "" if secret is None else secret.ciphertext.decode()
