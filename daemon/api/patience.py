"""How long a change waits for a leader before its caller is told that there is none."""

from __future__ import annotations

import trio

from daemon.api.clock import deadline_in
from daemon.services import Services

CHANGE_S = 10.0
"""For an election and a slow disk, several times over."""

CUT_OFF_AFTER_S = 5.0
CUT_OFF_CHANGE_S = 2.0
"""A node that heard no leader for so long and reaches too few voters to have one is in a minority, and says so soon."""


def change_deadline(services: Services, patience_s: float = CHANGE_S) -> float:
    """Until when a change that is asked for now may wait."""
    ledger = services.ledger
    quorum = ledger.quorum()
    leaderless_s = min(ledger.age(), trio.current_time() - services.started_at)
    cut_off = not quorum.has_leader and len(quorum.reached) < quorum.needed and leaderless_s > CUT_OFF_AFTER_S
    return deadline_in(CUT_OFF_CHANGE_S if cut_off else patience_s)
