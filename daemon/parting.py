"""How a start of this node ends towards the others: for good, for a moment, or without a word."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import trio

from consensus.ledger import Ledger
from daemon.api.clock import wall_ms
from gossip.service import Gossip
from mesh.errors import FreecloudError
from scheduler.ingress.ingress import Ingress
from scheduler.runner import Runner
from scheduler.runtimes.cgroups import ControlGroups

SHUTDOWN_S = 10.0
"""For answers under way and for saying goodbye."""

DRAIN_S = 3.0
HAND_OVER_S = 2.0
RESTART_MS = 60_000
"""SIGTERM stops the daemon only: its apps go on under their shims for so long, and so it is away, not gone."""


class Leaving(Enum):
    """Why a start ends."""

    FOR_GOOD = "for good"  # `down`
    FOR_A_MOMENT = "for a moment"  # a signal, or what a restart may mend
    FENCED = "fenced"  # its id belongs to another start, which lives, or to nobody any more


class Parting:
    """Says goodbye, once, for the parts of one start."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        gossip: Gossip,
        runner: Runner,
        groups: ControlGroups,
        ingress: Ingress,
        note: Callable[[str, str], None],
    ) -> None:
        self._ledger = ledger
        self._gossip = gossip
        self._runner = runner
        self._groups = groups
        self._ingress = ingress
        self._note = note

    async def say_goodbye(self, leaving: Leaving) -> None:
        """End what has to end, tell whom it concerns; not for longer than `SHUTDOWN_S`."""
        deadline = trio.current_time() + SHUTDOWN_S
        with trio.move_on_at(deadline):
            match leaving:
                case Leaving.FOR_GOOD:
                    await self._runner.stop_all(deadline=deadline)
                    await trio.to_thread.run_sync(self._groups.release)
                    await self._gossip.leave(deadline)
                case Leaving.FOR_A_MOMENT:
                    self._gossip.announce_away(wall_ms() + RESTART_MS)
                    await self._gossip.told(min(deadline, trio.current_time() + DRAIN_S))
                    await self._hand_over()
                case Leaving.FENCED:
                    await self._runner.stop_all(deadline=deadline)
            await self._ingress.drain(min(deadline, trio.current_time() + DRAIN_S))

    async def _hand_over(self) -> None:
        if self._ledger.is_leader and len(self._ledger.quorum().voters) > 1:
            try:
                await self._ledger.transfer_leadership(deadline=trio.current_time() + HAND_OVER_S)
            except FreecloudError as error:
                self._note("leader.not-handed-over", str(error))
