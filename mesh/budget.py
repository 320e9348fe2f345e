"""The small budget of connections whose other end has not proved who it is yet (attack 14)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass

HANDSHAKE_S = 5.0
"""From accept to proof. Nomad 5 s, NATS 2 s, PostgreSQL 60 s."""


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    now: int
    refused: int


class UnauthenticatedBudget:
    """Counts the unproven connections; those over the limit are closed without a byte.

    The limit by address keeps one stranger from using it all up. The loopback has none: behind it stand all nodes of
    a machine, and whoever can use it could do worse.
    """

    def __init__(self, total_max: int = 64, address_max: int = 8) -> None:
        self._total_max = total_max
        self._address_max = address_max
        self._by_address: Counter[str] = Counter()
        self._total = 0
        self._refused = 0

    def enter(self, address: str) -> bool:
        """Take a place for a connection from this address; False when there is none."""
        crowded = self._by_address[address] >= self._address_max and not _is_loopback(address)
        if self._total >= self._total_max or crowded:
            self._refused += 1
            if not self._by_address[address]:
                del self._by_address[address]
            return False
        self._by_address[address] += 1
        self._total += 1
        return True

    def leave(self, address: str) -> None:
        """Give the place back: proved, or gone."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        self._total -= 1

    def statistics(self) -> BudgetStatistics:
        return BudgetStatistics(self._total, self._refused)


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed.is_loopback or (mapped is not None and mapped.is_loopback)


class Place:
    """A place in the budget of strangers, given back once."""

    def __init__(self, budget: UnauthenticatedBudget, address: str) -> None:
        self._budget = budget
        self._address = address
        self._left = False

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._budget.leave(self._address)
