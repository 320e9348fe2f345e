"""All nodes of a run together: how the mesh comes about, and what is asked of it as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from consensus.ledger_entries import (
    LEDGER,
    AddInvite,
    Admit,
    CreateMesh,
    Done,
    Entry,
    Proposal,
    PutApiToken,
    PutRelease,
    PutSecret,
    RevokeApiToken,
)
from consensus.ledger_state import LedgerState
from consensus.records import Invite, KeyGeneration, KeyShare, Member, MeshRecord, Release
from mesh.names import NodeId
from tests.sim.agreeing import FOUNDER, MESH
from tests.sim.checkers.liveness import CoreView
from tests.sim.checkers.violation import Violation
from tests.sim.checkers.witness import ABSENT
from tests.sim.client import Answer, Clients
from tests.sim.core_choice import is_quorum
from tests.sim.history import Outcome
from tests.sim.host import Host
from tests.sim.identities import member, node_id
from tests.sim.network import CALM
from tests.sim.node import Node
from tests.sim.options import Options
from tests.sim.oracle import Oracle
from tests.sim.workloads.apps import APPS
from tests.sim.workloads.tokens import PRESENT
from tests.sim.world import World

INVITE = "bootstrap"
INVITE_LIFE_MS = 24 * 3600 * 1000
PROPOSE_S = 5.0


class Cluster:
    """One mesh in one world."""

    def __init__(self, options: Options) -> None:
        names = [f"n{number}" for number in range(1, options.nodes + 1)]
        self.oracle = Oracle()
        self.names: dict[NodeId, str] = {node_id(name): name for name in names}
        self.world = World(options, names, self._start)
        self.world.doubtful = self.doubtful
        self.clients = Clients(self.world)

    def _start(self, world: World, host: Host) -> Node:
        return Node(world, host, self.oracle, self.names, founder=host.name == FOUNDER and host.lives == 1)

    def node(self, name: str) -> Node | None:
        """The running process of this host."""
        process = self.world.hosts[name].process
        assert process is None or isinstance(process, Node)
        return process

    # --- bootstrap --------------------------------------------------------------------------------------------

    def bootstrap(self, bound_s: float) -> None:
        """Found the mesh, let everyone join by an invite and the voters be chosen, in calm weather."""
        world = self.world
        world.network.options = CALM
        for host in world.hosts.values():
            world.start(host)
        self._wait(bound_s, "the founder to lead", lambda: self._founder().agreeing.group.is_leader)
        self._found()
        self._wait(bound_s, "the mesh to be founded", lambda: self._founder().state.mesh is not None)
        self._agree(bound_s, AddInvite(self._invite()))
        for name in world.hosts:
            if name != FOUNDER:
                self._agree(bound_s, Admit(INVITE, self._member(name), ()))
        for app in APPS:
            self._agree(bound_s, PutRelease(Release(app, 1, f"{1:064x}", 1000, b"", "", 0, ()), 2))
        self._wait(bound_s, "everyone to join and the voters to be chosen", self._is_complete)
        world.network.options = world.options.network

    def _founder(self) -> Node:
        founder = self.node(FOUNDER)
        assert founder is not None, "nobody dies in the bootstrap"
        return founder

    def _found(self) -> None:
        founder = self._founder()
        me = node_id(FOUNDER)
        keys = tuple(
            KeyGeneration(purpose, 1, 0, (KeyShare(purpose, 1, me, b"sealed"),), retire=False)
            for purpose in ("gossip", "data")
        )
        now_ms = self.world.hosts[FOUNDER].clock.wall_ms()
        myself = replace(self._member(FOUNDER), seen_alive=True, joined_ms=now_ms)
        entry = CreateMesh(MeshRecord(MESH, 1, 1, now_ms), myself, keys)
        refusal = founder.agreeing.propose(LEDGER.encode(Proposal(me, b"", 0, 0, entry)), lambda index, result: None)
        assert refusal is None, "the founder leads"

    def _invite(self) -> Invite:
        expires_ms = self.world.hosts[FOUNDER].clock.wall_ms() + INVITE_LIFE_MS
        return Invite(INVITE, bytes(32), 50, expires_ms, node_id(FOUNDER), True, (), used_by=(), voided=False)

    def _member(self, name: str) -> Member:
        node = self.node(name)
        assert node is not None
        return member(name, may_vote=int(name[1:]) <= self.world.options.voters, boot=node.agreeing.boot)

    def _agree(self, bound_s: float, entry: Entry) -> None:
        answers: list[Answer] = []
        self._founder().propose(entry, PROPOSE_S, answers.append)
        self._wait(bound_s, f"{type(entry).__name__} to be agreed", lambda: bool(answers))
        if answers[0].outcome is not Outcome.DONE:
            raise Violation("liveness", f"in calm weather {type(entry).__name__} ended as {answers[0]}")

    def _is_complete(self) -> bool:
        founder = self._founder()
        status = founder.agreeing.group.status()
        if status.configuration.is_joint or len(status.configuration.voters) != self.world.options.voters:
            return False
        nodes = [node for name in self.world.hosts if (node := self.node(name)) is not None]
        return all(node.state.applied >= status.commit - 2 for node in nodes) and len(
            founder.state.active_members()
        ) == len(nodes)

    def _wait(self, bound_s: float, what: str, done: Callable[[], bool]) -> None:
        agenda = self.world.agenda
        if not done() and not agenda.run_until(agenda.now + bound_s, done):
            raise Violation("liveness", f"in calm weather, {bound_s:.0f} s were too short for {what}")

    # --- asked in the end -------------------------------------------------------------------------------------

    def doubtful(self) -> frozenset[str]:
        """Hosts whose memory was lost, and that the ledger has not made whole members again."""
        newest = self._newest()
        doubtful = set()
        for name in self.world.suspects:
            node = self.node(name)
            known = None if newest is None else newest.members.get(node_id(name))
            if node is None or known is None or known.relearn or known.boot != node.agreeing.boot:
                doubtful.add(name)
        return frozenset(doubtful)

    def missing_for_quorum(self, core: frozenset[str]) -> frozenset[str]:
        """Voters outside the core without whom some configuration that a node of the core goes by has no quorum."""
        missing: set[str] = set()
        doubtful = self.doubtful()
        for name in sorted(core):
            for voters in self._in_force(name):
                if not is_quorum(core - doubtful, voters):
                    missing |= voters - core
        return frozenset(missing)

    def majority_is_lost(self, core: frozenset[str]) -> bool:
        """True if a configuration in force has too many voters whose memory is gone: only `recover` helps then."""
        if self.world.is_lost:
            return True
        doubtful = self.doubtful()
        return any(not is_quorum(core - doubtful, voters) for name in sorted(core) for voters in self._in_force(name))

    def _in_force(self, name: str) -> tuple[frozenset[str], ...]:
        """The sets of voters that this node goes by, unless its epoch was given up."""
        node = self.node(name)
        return () if node is None or node.epoch() < max(self.oracle.branches) else node.configurations()

    def _newest(self) -> LedgerState | None:
        nodes = [node for name in self.world.hosts if (node := self.node(name)) is not None]
        newest = max(nodes, key=lambda node: (node.epoch(), node.state.applied), default=None)
        return None if newest is None else newest.state

    def core_views(self, core: frozenset[str]) -> list[CoreView]:
        """What each node of the core looks like now."""
        return [view for name in sorted(core) if (view := self._view(name)) is not None]

    def _view(self, name: str) -> CoreView:
        node = self.node(name)
        if node is None:
            return CoreView(name, False, "", 0, 0, b"", 0)
        status = node.agreeing.group.status()
        leader = "" if status.leader is None else self.names[status.leader]
        return CoreView(
            name,
            node.agreeing.group.is_leader,
            leader,
            status.term,
            node.state.applied,
            node.state.digest(),
            node.waiting(),
        )

    def gossip_views(self, core: frozenset[str]) -> dict[str, dict[str, str]]:
        """Whom each node of the core sees how; only members that have a machine."""
        return {name: node.gossip.states() for name in sorted(core) if (node := self.node(name)) is not None}

    def final_state(self) -> LedgerState:
        """What all have agreed on in the end."""
        newest = self._newest()
        assert newest is not None, "the core runs"
        return newest

    def undo_what_was_given_up(self) -> int:
        """Requests that were answered and whose effects only a lost majority held; returns how many there are."""
        given_up = [
            operation
            for operation in self.clients.history.operations
            if operation.outcome is Outcome.DONE and self.oracle.is_given_up(operation.epoch, operation.revision)
        ]
        for operation in given_up:
            operation.undo()
        return len(given_up)

    def place_writes(self) -> None:
        """Give each write the index at which the agreed log holds its first effect: what its answer could not know.

        A retry is answered with the index of the retry; an unknown write has no index at all.
        """
        places = self._first_effects()
        for operation in self.clients.history.of_kind("write"):
            index = places.get((operation.key, operation.argument))
            if index is not None:
                operation.revision = index
            elif operation.outcome is Outcome.DONE:
                raise Violation("committed", f"write {operation.number} was acknowledged and is nowhere in the log")

    def _first_effects(self) -> dict[tuple[str, str], int]:
        """Key and value of every write in the agreed log, with the index of the first one that was done."""
        found: dict[tuple[str, str], int] = {}
        present = self.oracle.newest
        for index in sorted(present.results):
            agreed = present.log.entries[index]
            if agreed.kind != "normal" or not isinstance(LEDGER.decode(present.results[index]), Done):
                continue
            match LEDGER.decode(agreed.payload, Proposal).entry:
                case PutSecret(secret=secret):
                    found.setdefault((secret.name, secret.ciphertext.decode()), index)
                case PutApiToken(token=token):
                    found.setdefault((token.token_id, PRESENT), index)
                case RevokeApiToken(token_id=token_id):
                    found.setdefault((token_id, ABSENT), index)
                case _:
                    pass
        return found
