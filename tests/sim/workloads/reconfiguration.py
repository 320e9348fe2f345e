"""Voters changed by several at once, straight through the leader, so that joint configurations mean something.

The leader's duties change one voter at a time, whose majorities always overlap; here whole sets are exchanged, and
the duties, which want it otherwise, work against it. No set is asked for that the faults' budget could not bear.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.client import Clients
from tests.sim.history import Outcome
from tests.sim.host import Host
from tests.sim.identities import node_id
from tests.sim.node import Node
from tests.sim.workloads.workload import Workload
from tests.sim.world import World

VOTERS_MIN = 3
PAUSES = 4


class Reconfiguration(Workload):
    name = "reconfiguration"

    def __init__(self, world: World, clients: Clients) -> None:
        super().__init__(world, clients)

    def begin(self, names: list[str]) -> None:
        """One operator."""
        super().begin(names[:1])

    def pause(self, client: str) -> None:
        self.world.agenda.after(self.rng.expovariate(1.0 / (PAUSES * self.world.options.think_s)), self._turn, client)

    def act(self, client: str, done: Callable[[], None]) -> None:
        leading = [host for host in self.world.alive() if host.process is not None and host.process.leads()]
        whole = [name for name in self.world.hosts if name not in self.world.suspects]
        size = self.rng.randint(VOTERS_MIN, 5)
        if not leading or len(whole) < VOTERS_MIN:
            done()
            return
        wanted = sorted(self.rng.sample(whole, min(size, len(whole))))
        operation = self.clients.begin(client, "voters", leading[0].name, " ".join(wanted))
        self.world.later(leading[0], 0.0, lambda: self._change(leading[0], frozenset(wanted)))
        operation.finish(self.world.agenda.now, Outcome.NOTHING, answer="asked")
        done()

    def _change(self, host: Host, wanted: frozenset[str]) -> None:
        """Learners first, those of the wanted that are none yet; then the voters, if they have caught up."""
        node = host.process
        assert isinstance(node, Node)
        members = node.state.active_members()
        ids = {node_id(name) for name in wanted}
        if not all(known in members and not members[known].relearn for known in ids):
            return
        configuration = node.agreeing.group.configuration
        fresh = ids - configuration.voters - configuration.learners
        now = node.agreeing.now()
        if fresh:
            learners = frozenset(configuration.learners | fresh)
            node.agreeing.group.change_membership(now, configuration.voters, learners)
        else:
            node.agreeing.group.change_membership(now, frozenset(ids), frozenset(configuration.voters - ids))
        node.agreeing.perform()
