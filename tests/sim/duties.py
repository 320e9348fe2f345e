"""A simulated leader's duties: the real `Duties`, looked at on a timer, carried out through the node's own client.

What `consensus/duty_loop.py` does with trio; entries one after another, then the step of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from consensus.leader_duties import Duties, GroupFacts, KeyMaker, Seen, Sight
from consensus.ledger_entries import Entry
from consensus.raft.outputs import Refusal
from consensus.records import KeyGeneration, KeyShare, Member, SecretRecord
from mesh.names import NodeId
from tests.sim.agreeing import Agreeing
from tests.sim.client import Answer
from tests.sim.gossiping import Gossiping
from tests.sim.history import Outcome
from tests.sim.host import Host
from tests.sim.identities import node_id
from tests.sim.world import World

PROPOSE_S = 5.0


def make_key(purpose: str, generation: int, members: Mapping[NodeId, Member], now_ms: int) -> KeyGeneration:
    """A fresh generation for all trusted members; the sealed bytes mean nothing here."""
    shares = tuple(
        KeyShare(purpose, generation, known, b"sealed") for known, member in sorted(members.items()) if member.trusted
    )
    return KeyGeneration(purpose=purpose, generation=generation, created_ms=now_ms, shares=shares, retire=False)


def reseal(secret: SecretRecord) -> SecretRecord | None:
    """Not done here: a rewritten secret would be a write that no client of the registers made."""
    return None


class LeaderDuties:
    """Alive while the node leads; forgets everything when it does not."""

    def __init__(
        self,
        world: World,
        host: Host,
        agreeing: Agreeing,
        gossip: Gossiping,
        names: Mapping[NodeId, str],
        propose: Callable[[Entry, float, Callable[[Answer], None]], None],
    ) -> None:
        self._world, self._host, self._agreeing = world, host, agreeing
        self._gossip, self._names, self._propose = gossip, names, propose
        self._me = node_id(host.name)
        self._duties: Duties | None = None
        self._busy = False

    def look(self) -> None:
        """Plan and carry out, if this node leads and nothing of an earlier plan is under way."""
        if not self._agreeing.group.is_leader:
            self._duties = None
            return
        if self._busy:
            return
        self._duties = self._duties or Duties(self._me, KeyMaker(make_key, reseal))
        now, state = self._agreeing.now(), self._agreeing.state
        plan = self._duties.plan(now, self._host.clock.wall_ms(), state, self._sights(), self._facts())
        if plan.entries:
            self._busy = True
            self._carry_out(list(plan.entries))
        elif plan.step is not None:
            refusal = self._agreeing.group.change_membership(now, plan.step.voters, plan.step.learners)
            what = "refused" if isinstance(refusal, Refusal) else "voters"
            self._world.note(self._host.name, "duty", f"{what}: {plan.step.reason}")
            self._agreeing.perform()

    def _carry_out(self, entries: list[Entry]) -> None:
        if not entries:
            self._busy = False
            return
        entry = entries.pop(0)
        self._world.note(self._host.name, "duty", type(entry).__name__)

        def answered(answer: Answer) -> None:
            self._carry_out(entries if answer.outcome is Outcome.DONE else [])

        self._propose(entry, PROPOSE_S, answered)

    def _sights(self) -> dict[NodeId, Seen]:
        return {view.node_id: Seen(Sight(view.state.value), view.since) for view in self._gossip.swim.view().values()}

    def _facts(self) -> GroupFacts:
        status = self._agreeing.group.status()
        configuration = status.configuration
        progress = () if status.raft is None else status.raft.progress
        caught_up = {peer.node_id for peer in progress if peer.match + 64 >= status.last_index}
        pending = status.raft is not None and status.raft.configuration_index > status.raft.commit
        return GroupFacts(
            voters=configuration.voters,
            learners=configuration.learners,
            caught_up=frozenset(caught_up | {self._me}),
            changing=configuration.is_joint or pending,
        )
