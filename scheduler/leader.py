"""The scheduler's part on the node that leads: look, reconcile, propose; at every change, and when a plan asked for it.

Whatever is refused was planned from a view that is past: the next look makes a new plan. A leader that was deposed in
the middle does no harm, for each entry names what it expects (fault O2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio

from consensus.ledger import Ledger
from gossip.view import MemberView
from mesh.errors import FreecloudError
from mesh.names import NodeId
from scheduler.looking import look
from scheduler.model import Plan, Sightings
from scheduler.reconcile import reconcile
from scheduler.sightings import observe

PROPOSE_S = 5.0
AGAIN_S = 0.5
"""After a refusal; what refused it is applied here within a heartbeat."""

CHECK_S_MAX = 60.0


class SchedulerLeader:
    """One task for the life of the daemon; does something only while this node leads.

    Args:
        ledger: Told when this node leads, and proposed to.
        sights: What gossip sees now.
        wait: Returns when the ledger or gossip changed since the last call, or at the given time.
        note: Told of what was done, as (kind, text).
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        sights: Callable[[], Mapping[NodeId, MemberView]],
        wait: Callable[[float], Awaitable[None]],
        note: Callable[[str, str], None],
    ) -> None:
        self._ledger = ledger
        self._sights = sights
        self._wait = wait
        self._note = note

    async def run(self) -> None:
        """Wait to lead; while leading, reconcile."""
        seen: Sightings | None = None
        term = 0
        while True:
            if not self._ledger.is_leader:
                seen = None
                await self._wait(float("inf"))
                continue
            now = trio.current_time()
            if seen is None or term != self._ledger.term:
                # Another led meanwhile, perhaps unnoticed: what it did between two looks was not seen.
                seen, term = Sightings(led_since=now), self._ledger.term
            view = look(now, self._ledger.state, self._sights(), seen)
            seen = observe(seen, view)
            plan = reconcile(look(now, self._ledger.state, self._sights(), seen))
            if await self._propose(plan):
                await self._wait(now + min(plan.next_check_s, CHECK_S_MAX))
            else:
                await self._wait(trio.current_time() + AGAIN_S)

    async def _propose(self, plan: Plan) -> bool:
        """False if something was refused or did not get through."""
        for reason in plan.reasons if plan.entries else ():
            self._note("scheduler", f"{reason.app}: {reason.text}")
        for entry in plan.entries:
            try:
                await self._ledger.propose(entry, deadline=trio.current_time() + PROPOSE_S)
            except FreecloudError as error:
                self._note("scheduler.refused", str(error))
                return False
        return True
