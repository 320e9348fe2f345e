"""Carries out the leader's duties while this node leads; a deposed leader's proposals are refused by the ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio

from consensus.leader_duties import Duties, GroupFacts, KeyMaker, Plan, Seen
from consensus.ledger import Ledger
from mesh.errors import FreecloudError
from mesh.names import NodeId

PROPOSE_S = 5.0
RETRY_S = 1.0
"""After a refusal or a timeout the plan is made anew, from what is known then; this is the pause before."""


class DutyLoop:
    """One task for the life of the daemon.

    Args:
        ledger: Told when this node leads, and proposed to.
        me: This node.
        keys: What a rotation needs.
        sights: What gossip sees now.
        group: The ledger's Raft group as its leader knows it.
        wait: Returns when the ledger or gossip changed since the last call, or at the given time.
        wall_ms: The wall clock.
        note: Told of what was done, as (kind, text).
    """

    def __init__(
        self,
        ledger: Ledger,
        me: NodeId,
        keys: KeyMaker,
        *,
        sights: Callable[[], Mapping[NodeId, Seen]],
        group: Callable[[], GroupFacts],
        wait: Callable[[float], Awaitable[None]],
        wall_ms: Callable[[], int],
        note: Callable[[str, str], None],
    ) -> None:
        self._ledger = ledger
        self._me = me
        self._keys = keys
        self._sights = sights
        self._group = group
        self._wait = wait
        self._wall_ms = wall_ms
        self._note = note

    async def run(self) -> None:
        """Wait to lead; while leading, plan and carry out at every change."""
        duties: Duties | None = None
        while True:
            if not self._ledger.is_leader:
                duties = None
                await self._wait(float("inf"))
                continue
            duties = duties or Duties(self._me, self._keys)
            plan = duties.plan(trio.current_time(), self._wall_ms(), self._ledger.state, self._sights(), self._group())
            if await self._carry_out(plan):
                await self._wait(plan.again_at)
            else:
                await trio.sleep(RETRY_S)

    async def _carry_out(self, plan: Plan) -> bool:
        """False if something was refused or did not get through: the view it was made from is past."""
        try:
            for entry in plan.entries:
                await self._ledger.propose(entry, deadline=trio.current_time() + PROPOSE_S)
            if plan.step is not None:
                self._note("ledger.voters", plan.step.reason)
                await self._ledger.change_membership(
                    plan.step.voters, plan.step.learners, deadline=trio.current_time() + PROPOSE_S
                )
        except FreecloudError as error:
            self._note("duty.refused", str(error))
            return False
        return True
