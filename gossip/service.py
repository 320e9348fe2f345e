"""Gossip: the trio shell around `Swim`. Feeds it datagrams, links and time, and carries out what it says.

The loop is `mesh.driver`; there is no decision in this file. Probes over links and push-pull conversations are tasks,
so that a slow peer never holds up a probe (pitfall 37).
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import trio

from gossip.datagrams import Datagrams, DatagramStatistics
from gossip.events import GossipEvent, History, MemberAlive, Observation
from gossip.messages import GOSSIP, PushPull, PushPullReply, StreamAnswer, StreamProbe, decode_packet
from gossip.outbox import Exchange, Output, ProbeByStream
from gossip.profiles import LAN, Profile
from gossip.record import NodeRecord
from gossip.seal import KeyRing, Seal, SealStatistics
from gossip.swim import Swim
from gossip.view import MemberView, SwimStatistics
from gossip.watchers import Watchers
from mesh.driver import Driver
from mesh.errors import FailedError, FreecloudError, ProtocolError, UpgradeNeeded
from mesh.identity import Identity, verify_signature
from mesh.names import NodeId, Role
from mesh.peers import LinkClosed, LinkOpened, LinksLagged, Peers
from mesh.rpc import Caller, Lane, Method, RpcServer, Shape

STREAM_PROBE = Method(
    "gossip.stream-probe", StreamProbe, StreamAnswer, GOSSIP, Role.MEMBER, Lane.CONTROL, Shape.UNARY
)
PUSH_PULL = Method("gossip.push-pull", PushPull, PushPullReply, GOSSIP, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)

EXCHANGES_MAX = 8
"""Push-pull conversations at once. memberlist allows 128, each of the whole state; ours are short."""

STREAM_PROBES_MAX = 64
LOOKUPS_MAX = 8

EXCHANGE_CALL_S = 5.0
"""For one call of a conversation: it is small, and a peer that needs longer is asked again later."""

LINK_CHECK_S = 5.0
"""How often, in the mean, it is looked whether a link is missing that a small mesh wants."""


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """What a node's gossip is started with.

    Args:
        address: host:port where the other members' datagrams reach this node.
        profile: How patient the mesh is; the same on all nodes.
    """

    address: str
    profile: Profile = LAN


@dataclass(frozen=True, slots=True)
class GossipStatistics:
    swim: SwimStatistics
    seal: SealStatistics
    datagrams: DatagramStatistics
    undecodable: int
    exchanges: int
    exchanges_failed: int


class Gossip:
    """What this node knows of the members, and what it tells them of itself.

    Made within trio; `register` puts its methods on the server, `run` serves. Everything else may be called before
    `run`, and from any task of the loop.

    Args:
        identity: Signs what this node says of itself.
        boot_counter: Of this start, on the disk already.
        boot_nonce: Random bytes of this start.
        keyring: The mesh's gossip keys, newest first; empty when none was shared yet.
        peers: The links.
        clock: Wall time in milliseconds, to show and for planned absences.
    """

    def __init__(
        self,
        config: GossipConfig,
        identity: Identity,
        *,
        boot_counter: int,
        boot_nonce: bytes,
        keyring: KeyRing,
        peers: Peers,
        rng: random.Random,
        clock: Callable[[], int],
    ) -> None:
        self._peers = peers
        self._rng = rng
        self._clock = clock
        self._me = identity.node_id
        self._swim = Swim(
            identity.node_id,
            config.profile,
            address=config.address,
            boot_counter=boot_counter,
            sign=identity.sign,
            verify=verify_signature,
            rng=rng,
            now=trio.current_time(),
        )
        self._seal = Seal(
            keyring,
            me=identity.node_id,
            boot_counter=boot_counter,
            boot_nonce=boot_nonce,
            is_member=self._swim.is_member,
        )
        self._driver: Driver[Output] = Driver(self._swim, self._perform)
        self._history = History()
        self._watchers = Watchers()
        self._view: Mapping[NodeId, MemberView] | None = None
        self._datagrams: Datagrams | None = None
        self._nursery: trio.Nursery | None = None
        self._told = trio.Event()
        self._stream_probes = 0
        self._lookups = 0
        self._exchanges = 0
        self._undecodable = 0
        self._exchanges_done = 0
        self._exchanges_failed = 0

    def register(self, server: RpcServer) -> None:
        """Put the calls that others make to this node on its server."""
        server.register(STREAM_PROBE, self._answer_stream_probe)
        server.register(PUSH_PULL, self._answer_push_pull)

    async def run(
        self,
        sock: socket.socket | trio.socket.SocketType,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled.

        Args:
            sock: A bound UDP socket; it is not closed here.
        """
        self._datagrams = Datagrams(sock)
        self._swim.set_wall_clock(trio.current_time(), self._clock())
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._receive, self._datagrams)
                nursery.start_soon(self._follow_links)
                nursery.start_soon(self._keep_links)
                nursery.start_soon(self._driver.run)
                task_status.started()
        finally:
            self._nursery = None
            self._datagrams.close()

    # What others ask.

    def view(self) -> Mapping[NodeId, MemberView]:
        """Every member, this node included. Frozen: ask again to see what is new."""
        if self._view is None:
            self._view = self._swim.view()
        return self._view

    def why(self, node_id: NodeId) -> tuple[Observation, ...]:
        """A member's story as this node saw it, oldest first: who accused it, by which probes, who confirmed."""
        return self._history.of(node_id)

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[GossipEvent]]:
        """A bounded channel of events from now on; who lags gets one `Lagged` and looks at the view again."""
        with self._watchers.watch() as channel:
            yield channel

    def statistics(self) -> GossipStatistics:
        datagrams = DatagramStatistics(0, 0, 0) if self._datagrams is None else self._datagrams.statistics()
        return GossipStatistics(
            self._swim.statistics(),
            self._seal.statistics(),
            datagrams,
            self._undecodable,
            self._exchanges_done,
            self._exchanges_failed,
        )

    # What this node's other parts tell.

    def publish(self, record: NodeRecord) -> None:
        """What this node says of itself. Version and signature are added here; unchanged facts cost nothing.

        Raises:
            ExhaustedError: It is too large; the last one stands.
        """
        self._swim.publish(trio.current_time(), record)
        self._changed()

    def set_members(self, members: Mapping[NodeId, bytes]) -> None:
        """The ledger's members and their public keys: nobody else exists."""
        self._swim.set_members(trio.current_time(), members)
        node_ids = frozenset(members)
        self._seal.keep_only(node_ids)
        self._history.keep_only(node_ids)
        self._changed()

    def set_starts(self, starts: Mapping[NodeId, tuple[int, bytes]]) -> None:
        """The start of each member that the ledger names: (boot counter, boot nonce)."""
        self._seal.set_starts(starts)

    def set_addresses(self, node_id: NodeId, addresses: tuple[str, ...]) -> None:
        """Where a member is, by the ledger; its own claim goes before."""
        self._swim.set_addresses(trio.current_time(), node_id, addresses)
        self._changed()

    def set_address(self, address: str) -> None:
        """This node is reached elsewhere from now on."""
        self._swim.set_address(trio.current_time(), address)
        self._changed()

    def set_keyring(self, keyring: KeyRing) -> None:
        """The mesh's gossip keys as the ledger has them now, newest first."""
        self._seal.set_ring(trio.current_time(), keyring)

    def announce_away(self, until_ms: int) -> None:
        """Plan to be away until that wall time, without alarm; 0 ends it early. `told` waits until others know."""
        now = trio.current_time()
        self._swim.set_wall_clock(now, self._clock())
        self._swim.announce_away(now, until_ms)
        self._changed()

    async def leave(self, deadline: float) -> None:
        """Say goodbye and wait until it is told often enough, at most until the deadline."""
        self._swim.leave(trio.current_time())
        self._changed()
        await self.told(deadline)

    async def told(self, deadline: float) -> None:
        """Wait until what this node last said of its presence was told often enough, at most until the deadline."""
        if self._told.is_set():
            self._told = trio.Event()
        self._driver.wake()
        with trio.move_on_at(deadline):
            await self._told.wait()

    def _changed(self) -> None:
        self._view = None
        self._driver.wake()

    # What comes in.

    async def _receive(self, datagrams: Datagrams) -> None:
        while True:
            await datagrams.wait()
            now = trio.current_time()
            for datagram, source in datagrams.drain():
                try:
                    sender, payload = self._seal.open(now, datagram)
                    packet = decode_packet(payload)
                except (ProtocolError, UpgradeNeeded):
                    self._undecodable += 1
                    continue
                self._swim.receive(now, sender, packet, source=source)
                if self._peers.silent_s(sender) == inf:
                    self._peers.peer_seen(sender)  # after a cut that others bridged nobody was dead, and no news comes
            self._driver.wake()

    async def _follow_links(self) -> None:
        with self._peers.watch_links() as links:
            async for event in links:
                now = trio.current_time()
                match event:
                    case LinkOpened(node_id=node_id):
                        self._swim.peer_link_opened(now, node_id)
                    case LinkClosed(node_id=node_id, by_kernel=True):
                        self._swim.peer_link_closed(now, node_id)
                    case LinkClosed():
                        pass  # retired, or silent for long: the probes tell the one from the other
                    case LinksLagged():
                        for node_id in self._peers.linked():
                            self._swim.peer_link_opened(now, node_id)
                self._driver.wake()

    async def _answer_stream_probe(self, caller: Caller, probe: StreamProbe) -> StreamAnswer:
        return StreamAnswer(probe.sequence, self._swim.incarnation)

    async def _answer_push_pull(self, caller: Caller, request: PushPull) -> PushPullReply:
        reply = self._swim.answer(trio.current_time(), request)
        self._changed()
        return reply

    # What is to be done.

    async def _perform(self, output: Output) -> None:
        assert self._datagrams is not None and self._nursery is not None, "the driver runs within run()"
        now = trio.current_time()
        self._swim.set_wall_clock(now, self._clock())
        self._view = None
        for send in output.sends:
            if not self._send(send.address, now, send.payload):
                self._swim.send_failed(now, send.to)
        for probe in output.stream_probes:
            if self._stream_probes < STREAM_PROBES_MAX:
                self._stream_probes += 1
                self._nursery.start_soon(self._probe_by_stream, probe)
        for exchange in output.exchanges:
            if self._exchanges < EXCHANGES_MAX:
                self._exchanges += 1
                self._nursery.start_soon(self._exchange, exchange)
            else:
                self._swim.exchange_finished(now, exchange.peer, complete=False)
        for note in output.notes:
            self._history.add(note, self._clock())
        for event in output.events:
            if isinstance(event, MemberAlive):
                self._peers.peer_seen(event.node_id)
            self._watchers.tell(event)
        if self._swim.claim_is_told:
            self._told.set()

    def _send(self, address: str, now: float, payload: bytes) -> bool:
        assert self._datagrams is not None and self._nursery is not None, "the driver runs within run()"
        if self._datagrams.unresolved(address) and self._lookups < LOOKUPS_MAX:
            self._lookups += 1
            self._nursery.start_soon(self._look_up, self._datagrams, address)
        try:
            datagram = self._seal.seal(now, payload)
        except FailedError:  # no key yet: the ledger brings one; until then this node is heard over links alone
            return False
        return self._datagrams.send_nowait(address, datagram)

    async def _look_up(self, datagrams: Datagrams, address: str) -> None:
        try:
            await datagrams.resolve(address)
        finally:
            self._lookups -= 1

    async def _probe_by_stream(self, probe: ProbeByStream) -> None:
        try:
            request = StreamProbe(probe.sequence)
            await self._peers.call(probe.target, STREAM_PROBE, request, deadline=probe.deadline)
            alive = True
        except FreecloudError:
            alive = False
        finally:
            self._stream_probes -= 1
        self._swim.receive_stream_result(trio.current_time(), probe.sequence, alive=alive)
        self._driver.wake()

    async def _exchange(self, exchange: Exchange) -> None:
        """One push-pull conversation, over the link; it opens one if there is none."""
        complete = False
        try:
            conversation = self._swim.begin_exchange(trio.current_time(), exchange)
            while conversation.request is not None:
                deadline = trio.current_time() + EXCHANGE_CALL_S
                reply = await self._peers.call(exchange.peer, PUSH_PULL, conversation.request, deadline=deadline)
                self._swim.receive_reply(trio.current_time(), conversation, reply)
                self._changed()
            complete = True
        except FreecloudError:
            complete = False
        finally:
            self._exchanges -= 1
            self._exchanges_done += complete
            self._exchanges_failed += not complete
        self._swim.exchange_finished(trio.current_time(), exchange.peer, complete=complete)
        self._changed()

    async def _keep_links(self) -> None:
        """Links that broke between living members come back, though nobody has anything to say."""
        while True:
            await trio.sleep(LINK_CHECK_S * (0.5 + self._rng.random()))
            self._swim.want_links(trio.current_time(), self._peers.linked())
            self._driver.wake()
