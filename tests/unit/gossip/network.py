"""A small network of real Swim machines driven from one heap, at fixed times; real keys, no sockets, no trio."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from math import inf

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from gossip.events import GossipEvent, Note
from gossip.members import MemberState
from gossip.messages import decode_packet
from gossip.outbox import Exchange, Output
from gossip.profiles import DATAGRAM_BYTES_MAX, LAN, Profile
from gossip.record import NodeRecord
from gossip.seal import SEAL_OVERHEAD_BYTES
from gossip.swim import Swim
from mesh.names import NodeId, node_id_of

DELAY_S = 0.001
WALL_START_MS = 1_700_000_000_000


@cache
def signing_key(name: str) -> SigningKey:
    return SigningKey(name.encode().ljust(32, b"."))


def sign_as(name: str) -> Callable[[bytes, bytes], bytes]:
    return lambda domain, message: signing_key(name).sign(domain + message).signature


@cache
def verify(public_key: bytes, domain: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public_key).verify(domain + message, signature)
    except BadSignatureError:
        return False
    return True


def public_key(name: str) -> bytes:
    return bytes(signing_key(name).verify_key)


def id_of(name: str) -> NodeId:
    return node_id_of(public_key(name))


def a_record(name: str, /, **changes: object) -> NodeRecord:
    facts: dict[str, object] = {
        "node_id": id_of(name), "boot_counter": 0, "version": 0, "name": name, "mesh_addresses": (f"{name}:1",),
        "ingress_address": "", "api_address": "", "program_version": "0.1", "feature_level": 1, "cpus": 2.0,
        "memory_bytes": 1 << 30, "disk_free_bytes": 1 << 33, "load_percent": 10, "takes_apps": True,
        "sandbox": "uid", "ledger_index": 1, "leader": "", "bundles": (), "replicas": (),
    }  # fmt: skip
    return NodeRecord(**{**facts, **changes})  # type: ignore[arg-type]


@dataclass
class Node:
    name: str
    swim: Swim
    rng: random.Random
    boot: int
    up: bool = True
    paused_until: float = -inf
    events: list[tuple[float, GossipEvent]] = field(default_factory=list)
    notes: list[tuple[float, Note]] = field(default_factory=list)
    inbox: list[tuple[NodeId, bytes, str]] = field(default_factory=list)


class Network:
    """Delivers what machines send, after a fixed delay, unless cut, lost, paused or down.

    Streams (links) pass between nodes that are up and not cut, unless `links` is false.
    """

    def __init__(self, names: str, *, seed: int = 1, profile: Profile = LAN, loss: float = 0.0) -> None:
        self.now = 0.0
        self.profile = profile
        self.rng = random.Random(seed)
        self.loss = loss
        self.links = True
        self.datagrams = True
        self.cuts: set[tuple[str, str]] = set()
        self.sent = 0
        self.bytes_max = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes: dict[str, Node] = {}
        self._name_of = {id_of(name): name for name in names}
        self.members = {id_of(name): public_key(name) for name in names}
        for name in names:
            self.start(name)

    # Faults.

    def start(self, name: str, *, boot: int | None = None) -> Node:
        """A fresh machine, as after a (re)start of its daemon."""
        before = self.nodes.get(name)
        boot = boot or (1 if before is None else before.boot + 1)
        rng = random.Random(self.rng.random())
        swim = Swim(
            id_of(name), self.profile, address=f"{name}:1", boot_counter=boot, sign=sign_as(name), verify=verify,
            rng=rng, now=self.now,
        )  # fmt: skip
        node = Node(name, swim, rng, boot)
        if before is not None:
            node.events, node.notes = before.events, before.notes
        self.nodes[name] = node
        swim.set_wall_clock(self.now, WALL_START_MS + round(self.now * 1000))
        self.admit(node)
        self._settle(node)
        return node

    def admit(self, node: Node) -> None:
        node.swim.set_members(self.now, self.members)
        for node_id in self.members:
            node.swim.set_addresses(self.now, node_id, (f"{self._name_of[node_id]}:1",))

    def kill(self, name: str, *, links_close: bool = False) -> None:
        self.nodes[name].up = False
        if links_close:
            for other in self.nodes.values():
                if other.name != name and other.up:
                    other.swim.peer_link_closed(self.now, id_of(name))
                    self._settle(other)

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP: its datagrams lie in the socket meanwhile."""
        self.nodes[name].paused_until = self.now + seconds

    def cut(self, one: str, other: str) -> None:
        self.cuts |= {(a, b) for a in one for b in other} | {(b, a) for a in one for b in other}

    def heal(self) -> None:
        self.cuts.clear()

    # Time.

    def run(self, seconds: float) -> None:
        """Let everything due within so many seconds happen, in order."""
        end = self.now + seconds
        while True:
            wake, node = min(
                ((self._wake_of(node), node) for node in self.nodes.values()), key=lambda pair: pair[0]
            )
            at = self._heap[0][0] if self._heap else inf
            if min(wake, at) > end:
                self.now = end
                return
            if at <= wake:
                self.now, _, deliver = heapq.heappop(self._heap)
                deliver()
            else:
                self.now = max(self.now, wake)
                self._wake(node)

    def run_until(self, condition: Callable[[], bool], *, within: float) -> float:
        """Seconds until the condition holds."""
        started = self.now
        while not condition():
            assert self.now - started < within, f"not within {within} s"
            self.run(0.05)
        return self.now - started

    def _wake_of(self, node: Node) -> float:
        if not node.up:
            return inf
        return max(node.swim.next_deadline(), node.paused_until)

    def _wake(self, node: Node) -> None:
        # The socket first or the timers first: a resumed process may find either.
        inbox, node.inbox = node.inbox, []
        if node.rng.random() < 0.5:
            node.swim.tick(self.now)
            self._settle(node)
        for sender, payload, source in inbox:
            node.swim.receive(self.now, sender, decode_packet(payload), source=source)
        node.swim.tick(self.now)
        self._settle(node)

    def _settle(self, node: Node) -> None:
        """Carry out a machine's output."""
        output: Output = node.swim.take_output()
        node.events += [(self.now, event) for event in output.events]
        node.notes += [(self.now, note) for note in output.notes]
        for send in output.sends:
            self.sent += 1
            self.bytes_max = max(self.bytes_max, len(send.payload) + SEAL_OVERHEAD_BYTES)
            assert self.bytes_max <= DATAGRAM_BYTES_MAX
            target = send.address.split(":")[0]
            if not self.datagrams or self.rng.random() < self.loss:
                continue
            self._later(lambda t=target, p=send.payload: self._deliver(node.name, t, p))  # type: ignore[misc]
        for probe in output.stream_probes:
            self._later(lambda p=probe: self._stream_probe(node, p.target, p.sequence))  # type: ignore[misc]
        for exchange in output.exchanges:
            self._later(lambda e=exchange: self._exchange(node, e))  # type: ignore[misc]

    def _later(self, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + DELAY_S, next(self._order), action))

    def _reaches(self, sender: str, target: str) -> bool:
        return self.nodes[sender].up and self.nodes[target].up and (sender, target) not in self.cuts

    def _deliver(self, sender: str, target: str, payload: bytes) -> None:
        if target not in self.nodes or (sender, target) in self.cuts or not self.nodes[target].up:
            return
        node = self.nodes[target]
        if node.paused_until > self.now:
            node.inbox.append((id_of(sender), payload, f"{sender}:1"))
            return
        node.swim.receive(self.now, id_of(sender), decode_packet(payload), source=f"{sender}:1")
        self._settle(node)

    def _stream_probe(self, node: Node, target: NodeId, sequence: int) -> None:
        name = self._name_of[target]
        paused = self.nodes[name].paused_until > self.now
        if self.links and not paused and self._reaches(node.name, name) and self._reaches(name, node.name):
            node.swim.receive_stream_result(self.now, sequence, alive=True)
            self._settle(node)

    def _exchange(self, node: Node, exchange: Exchange) -> None:
        peer = self.nodes[self._name_of[exchange.peer]]
        passes = self.links and self._reaches(node.name, peer.name) and self._reaches(peer.name, node.name)
        if passes and peer.paused_until <= self.now:
            conversation = node.swim.begin_exchange(self.now, exchange)
            while conversation.request is not None:
                reply = peer.swim.answer(self.now, conversation.request)
                node.swim.receive_reply(self.now, conversation, reply)
        node.swim.exchange_finished(self.now, exchange.peer, complete=passes)
        self._settle(peer)
        self._settle(node)

    # What was seen.

    def state(self, observer: str, subject: str) -> MemberState:
        return self.nodes[observer].swim.view()[id_of(subject)].state

    def all_see(self, subject: str, state: MemberState, *, observers: str | None = None) -> bool:
        names = observers or "".join(name for name in self.nodes if name != subject and self.nodes[name].up)
        return all(self.state(observer, subject) is state for observer in names)

    def all_alive(self) -> bool:
        return all(self.all_see(name, MemberState.ALIVE) for name, node in self.nodes.items() if node.up)

    def events_of(self, observer: str, kind: type) -> list[tuple[float, GossipEvent]]:
        return [(at, event) for at, event in self.nodes[observer].events if isinstance(event, kind)]
