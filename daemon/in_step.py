"""Keeps what depends on the ledger in step with it: whom links trust, who gossips, which keys seal, whom to call.

Nothing is decided here. The ledger says who is a member; this carries it to the parts that must know.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.beginnings import term_in_epoch
from consensus.disk import NoSpace
from consensus.ledger import Ledger
from consensus.records import MemberStatus
from daemon.events import EventLog
from daemon.home import Home
from daemon.keys import GOSSIP, KeyHolder
from daemon.membership import MeshFile, own_shares, save_mesh_file, trusted_peers
from daemon.pulse import Pulse
from daemon.standing import Standing
from gossip.events import (
    GossipEvent,
    Lagged,
    MemberAlive,
    MemberDown,
    MemberLeft,
    MemberSuspected,
    RecordChanged,
    StoodStill,
)
from gossip.seal import GossipKey, KeyRing
from gossip.service import Gossip
from mesh.errors import FreecloudError
from mesh.identity import Identity
from mesh.names import NodeId
from mesh.peers import Peers
from mesh.trust import TrustStore


class InStep:
    """Two tasks: one follows the ledger, one follows gossip."""

    def __init__(
        self,
        *,
        identity: Identity,
        home: Home,
        trust: TrustStore,
        peers: Peers,
        gossip: Gossip,
        ledger: Ledger,
        keys: KeyHolder,
        events: EventLog,
        pulse: Pulse,
        standing: Standing,
        stop_with: Callable[[FreecloudError], None],
    ) -> None:
        self._identity = identity
        self._home = home
        self._trust = trust
        self._peers = peers
        self._gossip = gossip
        self._ledger = ledger
        self._keys = keys
        self._events = events
        self._pulse = pulse
        self._standing = standing
        self._stop_with = stop_with
        self._generations: tuple[int, ...] = ()
        self._known: dict[NodeId, MemberStatus] = {}
        self._leader: NodeId | None = None
        self._saved: MeshFile | None = None

    async def follow_ledger(self) -> None:
        """Apply every change of the ledger, at once."""
        async with self._ledger.watch() as changes:
            self.apply()
            async for _ in changes:
                self.apply()

    def apply(self) -> None:
        """Carry the ledger as it is now to everyone who must know."""
        state = self._ledger.state
        members = state.active_members()
        fenced = self._standing.judge(state.members.get(self._identity.node_id))
        if fenced is not None:
            self._events.add("node.fenced", str(fenced))
            self._stop_with(fenced)
            return
        if members:
            removed = [one.certificate for one in state.members.values() if one.status is MemberStatus.REMOVED]
            gone = self._trust.update(trusted_peers(members, frozenset(self._ledger.quorum().voters)), removed)
            if gone:
                self._peers.trust_changed()
            self._gossip.set_members({node_id: member.public_key for node_id, member in members.items()})
            starts = {node_id: (member.boot.counter, member.boot.nonce) for node_id, member in members.items()}
            self._gossip.set_starts(starts)
            for member in members.values():
                if member.node_id not in self._known:
                    self._call_at(member.node_id, member.addresses)
            self._rotate()
            self._note_changes()
            self._save()
        self._pulse.beat()

    async def follow_gossip(self) -> None:
        """Learn addresses from records, and tell the story as events."""
        with self._gossip.watch() as changes:
            async for event in changes:
                self._take(event)
                self._pulse.beat()

    def _take(self, event: GossipEvent) -> None:
        match event:
            case MemberAlive(node_id=node_id):
                self._events.add("node.alive", f"{self._name(node_id)} is alive")
            case MemberSuspected(node_id=node_id):
                self._events.add("node.suspected", f"{self._name(node_id)} does not answer")
            case MemberDown(node_id=node_id):
                self._events.add("node.down", f"{self._name(node_id)} is down")
            case MemberLeft(node_id=node_id):
                self._events.add("node.left", f"{self._name(node_id)} left")
            case StoodStill(seconds=seconds):
                self._events.add("node.stood-still", f"this node did nothing for {seconds:.0f} s")
            case RecordChanged(node_id=node_id):
                view = self._gossip.view().get(node_id)
                if view is not None and view.record is not None and node_id != self._identity.node_id:
                    self._call_at(node_id, view.record.mesh_addresses)
            case Lagged():
                for node_id, view in self._gossip.view().items():
                    if view.record is not None and node_id != self._identity.node_id:
                        self._call_at(node_id, view.record.mesh_addresses)

    def _call_at(self, node_id: NodeId, addresses: tuple[str, ...]) -> None:
        if node_id != self._identity.node_id and addresses:
            self._peers.set_addresses(node_id, addresses)
            self._gossip.set_addresses(node_id, addresses)

    def _rotate(self) -> None:
        ring = self._keys.ring(self._ledger.state.keys, GOSSIP)
        generations = tuple(generation for generation, _ in ring)
        if ring and generations != self._generations:
            self._generations = generations
            self._gossip.set_keyring(KeyRing(tuple(GossipKey(generation, key) for generation, key in ring)))

    def _note_changes(self) -> None:
        members = self._ledger.state.members
        for member in members.values():
            before = self._known.get(member.node_id)
            if before is not member.status:
                self._known[member.node_id] = member.status
                if before is not None:
                    self._events.add(f"member.{member.status.value}", f"{member.name} is {member.status.value}")
        leader = self._ledger.leader
        if leader != self._leader:
            self._leader = leader
            if leader is None:
                self._events.add("leader.lost", "no leader")
            else:
                status = self._ledger.status()
                when = f"epoch {status.epoch}, term {term_in_epoch(status.term)}"
                self._events.add("leader.elected", f"{self._name(leader)} leads ({when})")

    def _save(self) -> None:
        """Keep whom to call after a restart; written only when members come, go or move."""
        state = self._ledger.state
        if state.mesh is None:
            return
        members = tuple(member for _, member in sorted(state.active_members().items()))
        me = state.members.get(self._identity.node_id)
        keys = own_shares(state.keys.values(), self._identity.node_id)
        content = MeshFile(state.mesh.mesh_id, state.mesh.epoch, False, me.name if me else "", members, keys)
        if content != self._saved and me is not None:
            try:
                save_mesh_file(self._home.mesh, content)
            except NoSpace:
                return  # the old one still names members to call; the next change is written with this one
            self._saved = content

    def _name(self, node_id: NodeId) -> str:
        member = self._ledger.state.members.get(node_id)
        return member.name if member else node_id[:8]
