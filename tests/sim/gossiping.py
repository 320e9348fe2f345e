"""The gossip half of a simulated node: the real `Swim` and `Seal`, with the world for a socket.

What `gossip/service.py` does with trio is done here with the agenda, act for act: open, decode, receive; tick; send,
probe over the link, carry on a push-pull conversation.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from gossip.anti_entropy import Conversation
from gossip.events import MemberAlive, MemberDown, MemberLeft, MemberSuspected, Note
from gossip.messages import PushPull, PushPullReply, StreamAnswer, StreamProbe, decode_packet
from gossip.outbox import Exchange, Output, ProbeByStream
from gossip.profiles import CONFIRMATIONS, LAN, Profile
from gossip.seal import GossipKey, KeyRing, Seal
from gossip.suspicion import suspicion_bounds
from gossip.swim import Swim
from mesh.errors import ProtocolError
from mesh.names import NodeId
from tests.sim.checkers.gossip_order import ALIVE, DEAD, SUSPECT, GossipOrder, SuspicionRule
from tests.sim.host import Host
from tests.sim.identities import node_id, signing_key
from tests.sim.options import Options
from tests.sim.rpc import Rpc
from tests.sim.world import World

RING = KeyRing((GossipKey(1, bytes(range(32))),))
CALL_S = 3.0


@lru_cache(maxsize=65_536)
def verify(public_key: bytes, domain: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519, remembered: the same claim is checked by everyone."""
    try:
        VerifyKey(public_key).verify(domain + message, signature)
    except (BadSignatureError, ValueError):  # a malformed key is a no, as in mesh.identity
        return False
    return True


def profile_of(options: Options) -> Profile:
    """The seed's constants as a profile."""
    constants = options.constants
    return Profile(
        name="sim",
        probe_interval_s=constants.probe_interval_s,
        probe_timeout_s=min(constants.probe_timeout_s, constants.probe_interval_s / 2),
        urgent_round_s=constants.probe_interval_s * 0.75,
        suspicion_factor=LAN.suspicion_factor,
        suspicion_stretch=LAN.suspicion_stretch,
        gossip_interval_s=LAN.gossip_interval_s,
        gossip_fanout=LAN.gossip_fanout,
        push_pull_interval_s=constants.push_pull_interval_s,
        lost_probe_interval_s=constants.probe_interval_s * 2,
        unknown_down_s=LAN.unknown_down_s,
        slow_facts_s=LAN.slow_facts_s,
        awareness_start=LAN.awareness_start,
    )


class Gossiping:
    """One life's membership protocol.

    Args:
        names: Of every node id that may occur, for the addresses and the trace.
        boot_counter, boot_nonce: Of this start.
    """

    machine = Swim

    def __init__(
        self, world: World, host: Host, rpc: Rpc, names: Mapping[NodeId, str], boot_counter: int, boot_nonce: bytes
    ) -> None:
        self._world, self._host, self._rpc, self._names = world, host, rpc, names
        self._order = GossipOrder(f"{host.name}.{host.lives}")
        me = node_id(host.name)
        key = signing_key(host.name)
        self.swim = self.machine(
            me,
            profile_of(world.options),
            address=f"{host.name}:6700",
            boot_counter=boot_counter,
            sign=lambda domain, message: key.sign(domain + message).signature,
            verify=verify,
            rng=random.Random(f"{world.options.seed}:swim:{host.name}:{host.lives}"),
            now=host.clock.monotonic(),
        )
        self._seal = Seal(RING, me=me, boot_counter=boot_counter, boot_nonce=boot_nonce, is_member=self.swim.is_member)
        rpc.register("gossip.stream-probe", self._serve_probe)
        rpc.register("gossip.push-pull", self._serve_push_pull)

    def set_members(self, keys: Mapping[NodeId, bytes]) -> None:
        """Only these exist, as the ledger says."""
        now = self._host.clock.monotonic()
        self.swim.set_members(now, keys)
        for known in sorted(keys):
            if known in self._names:
                self.swim.set_addresses(now, known, (f"{self._names[known]}:6700",))
        self.perform()

    def receive(self, datagram: bytes) -> None:
        """A datagram came out of the socket."""
        now = self._host.clock.monotonic()
        try:
            sender, payload = self._seal.open(now, datagram)
            packet = decode_packet(payload)
        except ProtocolError:
            return
        self.swim.receive(now, sender, packet, source=f"{self._names[sender]}:6700")
        self.perform()

    def link_closed(self, peer: str) -> None:
        self.swim.peer_link_closed(self._host.clock.monotonic(), node_id(peer))
        self.perform()

    def wake(self) -> None:
        self.swim.set_wall_clock(self._host.clock.monotonic(), self._host.clock.wall_ms())
        self.swim.tick(self._host.clock.monotonic())
        self.perform(at_a_timer=True)

    def states(self) -> dict[str, str]:
        """Each other node's state as this one sees it, by name; members without a machine are left out."""
        me = node_id(self._host.name)
        return {
            self._names[view.node_id]: view.state.value
            for view in self.swim.view().values()
            if view.node_id != me and view.node_id in self._names
        }

    def perform(self, *, at_a_timer: bool = False) -> None:
        """Carry out what the machine wants; what it says at a timer is its own finding, not what it heard."""
        output: Output = self.swim.take_output()
        for send in output.sends:
            target = send.address.partition(":")[0]
            if target in self._world.hosts:
                self._world.network.send(
                    self._host.name, target, self._seal.seal(self._host.clock.monotonic(), send.payload)
                )
        for probe in output.stream_probes:
            self._probe(probe)
        for exchange in output.exchanges:
            self._converse(exchange)
        for note in output.notes:
            self._check(note, at_a_timer=at_a_timer)
        for event in output.events:
            match event:
                case (
                    MemberAlive(node_id=subject, incarnation=incarnation)
                    | MemberLeft(node_id=subject, incarnation=incarnation)
                ):
                    severity = ALIVE
                case MemberSuspected(node_id=subject, incarnation=incarnation):
                    severity = SUSPECT
                case MemberDown(node_id=subject, incarnation=incarnation):
                    severity = DEAD
                case _:
                    continue
            name = self._name(subject)
            self._order.told(name, incarnation, severity)
            self._world.note(self._host.name, "gossip", f"{name} {type(event).__name__}")

    def _check(self, note: Note, *, at_a_timer: bool) -> None:
        now = self._host.clock.monotonic()
        subject = self._name(note.node_id)
        match note.kind:
            case "suspected":
                self._order.suspected(now, subject, self._name(note.accuser), self._rule(note.node_id))
            case "down" if at_a_timer:
                confirmers = tuple(self._name(confirmer) for confirmer in note.confirmers)
                self._order.declared_dead(now, subject, confirmers)
            case "alive" | "left" | "away" | "down":
                self._order.cleared(subject)
            case _:
                pass

    def _rule(self, subject: NodeId) -> SuspicionRule:
        profile = profile_of(self._world.options)
        members = self.swim.statistics().members
        shortest_s, longest_s = suspicion_bounds(
            members, profile.suspicion_factor, profile.suspicion_stretch, profile.probe_interval_s
        )
        # How many there were to confirm when it began, as the observer counts them: nobody outside can know better.
        suspicion = self.swim._judgement._suspicions.get(subject)
        expected = 0 if suspicion is None else min(CONFIRMATIONS, suspicion._expected)
        return SuspicionRule(shortest_s, longest_s, expected)

    def _name(self, subject: NodeId | None) -> str:
        return "" if subject is None else self._names.get(subject, subject[:6])

    def _probe(self, probe: ProbeByStream) -> None:
        def answered(response: object | None) -> None:
            alive = isinstance(response, StreamAnswer)
            self.swim.receive_stream_result(self._host.clock.monotonic(), probe.sequence, alive=alive)
            self.perform()

        timeout_s = max(0.0, probe.deadline - self._host.clock.monotonic())
        if probe.target in self._names:
            request = StreamProbe(probe.sequence)
            self._rpc.call(self._names[probe.target], "gossip.stream-probe", request, timeout_s, answered)
        else:
            answered(None)

    def _serve_probe(self, source: str, request: object, answer: object) -> None:
        assert isinstance(request, StreamProbe) and callable(answer)
        answer(StreamAnswer(request.sequence, self.swim.incarnation))

    def _converse(self, exchange: Exchange) -> None:
        conversation = self.swim.begin_exchange(self._host.clock.monotonic(), exchange)
        self._ask_next(exchange.peer, conversation)

    def _ask_next(self, peer: NodeId, conversation: Conversation) -> None:
        now = self._host.clock.monotonic()
        request = conversation.request
        if request is None or peer not in self._names:
            self.swim.exchange_finished(now, peer, complete=request is None)
            return

        def answered(reply: object | None) -> None:
            when = self._host.clock.monotonic()
            if isinstance(reply, PushPullReply):
                try:
                    self.swim.receive_reply(when, conversation, reply)
                except ProtocolError:
                    self.swim.exchange_finished(when, peer, complete=False)
                else:
                    self._ask_next(peer, conversation)
            else:
                self.swim.exchange_finished(when, peer, complete=False)
            self.perform()

        self._rpc.call(self._names[peer], "gossip.push-pull", request, CALL_S, answered)

    def _serve_push_pull(self, source: str, request: object, answer: object) -> None:
        assert isinstance(request, PushPull) and callable(answer)
        answer(self.swim.answer(self._host.clock.monotonic(), request))
        self.perform()
