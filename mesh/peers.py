"""The other members, as this node reaches them: links that are dialled when wanted, and calls over them.

A link is opened by whoever first has something to say, and kept. There is at most one a peer (`mesh.link_table`); one
port takes members' links and joiners alike, told apart by ALPN. A peer is never trusted for how it was reached: only
for its certificate, which has to be in the trust store, at the handshake and for as long as the link lives.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass

import trio

from mesh.admission import AdmissionDesk, serve_join
from mesh.budget import HANDSHAKE_S, BudgetStatistics, Place, UnauthenticatedBudget
from mesh.calls import LinkWentAway, call_on, stream_on, tunnel_on
from mesh.dialling import SETTLED_S, DialState
from mesh.errors import DeadlineError, FreecloudError, UnreachableError
from mesh.greeting import Greeter
from mesh.hello import Hello
from mesh.identity import Identity
from mesh.lanes import Lane
from mesh.last_word import Dismissed, LastWord, Reason
from mesh.link import Link, LinkOver
from mesh.link_streams import MuxStream
from mesh.link_table import LinkClosed as LinkClosed
from mesh.link_table import LinkEvent as LinkEvent
from mesh.link_table import LinkOpened as LinkOpened
from mesh.link_table import LinksLagged as LinksLagged
from mesh.link_table import LinkTable
from mesh.mux_events import MuxConfig, MuxStatistics
from mesh.names import NodeId
from mesh.rpc import Caller, Method, RequestT, ResponseT, RpcServer
from mesh.tls import ALPN_JOIN, ALPN_MESH, STRANGER, TlsContexts, TlsStream
from mesh.transports.stream import Dialler, Stream
from mesh.transports.tcp import TcpStream, dial_tcp
from mesh.trust import TrustedPeer, TrustStore
from mesh.tunnel import Tunnel, local_tunnel

DIAL_S = HANDSHAKE_S
"""For one address, from connecting to the peer's hello; shorter than `link_table.RACE_S`."""


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    node_id: NodeId
    dialled: bool
    age_s: float
    link: MuxStatistics


@dataclass(frozen=True, slots=True)
class PeersStatistics:
    """What `status` and the metrics show of the links."""

    links: tuple[PeerStatistics, ...]
    strangers: BudgetStatistics
    strangers_refused: int  # showed a certificate that no member has, or none
    dials: int
    dials_failed: int
    joins_admitted: int
    joins_refused: int
    notices_unsent: int


class Peers:
    """Links to the other members, and the mesh port.

    Args:
        identity: This node's.
        trust: The members; after each `update` of it, call `trust_changed`.
        server: What this node answers.
        hello: What this node says of itself at the moment.
        rng: For the jitter of back-offs.
        desk: Admits joiners; without one they are turned away.
        on_last_word: Called when a peer has closed a link for good, and said why.
        on_stranger: Called when either end of a connection was a stranger to the other, which may mean that this
            node's ledger is behind. The callee limits the rate.
        dial: The transport.
        config: Of every link.
    """

    def __init__(
        self,
        identity: Identity,
        trust: TrustStore,
        server: RpcServer,
        hello: Callable[[], Hello],
        *,
        rng: random.Random,
        desk: AdmissionDesk | None = None,
        on_stranger: Callable[[], None] = lambda: None,
        on_last_word: Callable[[NodeId, LastWord], None] = lambda node_id, word: None,
        dial: Dialler = dial_tcp,
        config: MuxConfig | None = None,
    ) -> None:
        self._identity = identity
        self._trust = trust
        self._server = server
        self._hello = hello
        self._rng = rng
        self.desk = desk
        self._on_stranger = on_stranger
        self._on_last_word = on_last_word
        self._dial_address = dial
        self._config = config or MuxConfig()
        self._contexts = TlsContexts(identity, trust)
        self._links = LinkTable(identity.node_id)
        self._greeter = Greeter(trust, self._links, lambda: self._hello(), self._config)
        self._dials: dict[NodeId, DialState] = {}
        self._budget = UnauthenticatedBudget()
        self._nursery: trio.Nursery | None = None
        self._strangers_refused = 0
        self._dials_made = 0
        self._dials_failed = 0
        self._joins_admitted = 0
        self._joins_refused = 0
        self._notices_unsent = 0

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the mesh port and carry the links until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await nursery.start(trio.serve_listeners, self._serve_connection, list(listeners))
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def set_addresses(self, node_id: NodeId, addresses: tuple[str, ...]) -> None:
        """Where the peer listens, as `host:port`; changed addresses are tried without waiting for a back-off."""
        self._dial_state(node_id).set_addresses(tuple(addresses))

    def peer_seen(self, node_id: NodeId) -> None:
        """Something was heard of the peer just now: the next attempt need not wait."""
        self._dial_state(node_id).seen(trio.current_time())

    def reach(self, node_id: NodeId) -> None:
        """Have a link to this peer as soon as it can be had, though nothing is to be said to it yet."""
        if self._links.get(node_id) is None:
            self._start_dial(node_id)

    def linked(self) -> frozenset[NodeId]:
        """The peers with a link that calls can be made on."""
        return self._links.linked()

    def hello_of(self, node_id: NodeId) -> Hello | None:
        """What a linked peer said of itself when the link was opened."""
        link = self._links.get(node_id)
        return link.hello if link else None

    def rtt_s(self, node_id: NodeId) -> float:
        """The round trip to a peer in seconds, `inf` when it is not linked or not measured yet."""
        link = self._links.get(node_id)
        return link.mux.time.rtt_s if link else float("inf")

    def silent_s(self, node_id: NodeId) -> float:
        """How long ago something came over the link to a peer, `inf` when it is not linked.

        A link on which nobody has anything to say is silent for `MuxConfig.keepalive_s`, and then asks.
        """
        link = self._links.get(node_id)
        return trio.current_time() - link.mux.time.last_heard if link else float("inf")

    def watch_links(self) -> AbstractContextManager[trio.MemoryReceiveChannel[LinkEvent]]:
        """A bounded channel of `LinkOpened`, `LinkClosed` and, for one that lags, `LinksLagged`."""
        return self._links.watch()

    def trust_changed(self) -> None:
        """Close at once every link whose certificate the trust store no longer has (attack 6)."""
        for link in self._links.everyone():
            if self._trust.by_certificate(link.certificate) is None:
                why = "the peer is no longer a member"
                if self._trust.was_removed(link.certificate):
                    link.dismiss(self._greeter.last_word(Reason.REMOVED), why)
                link.close(why)
        for node_id in [known for known in self._dials if self._trust.get(known) is None]:
            self._dials.pop(node_id).wake()

    async def call(
        self, node_id: NodeId, method: Method[RequestT, ResponseT], request: RequestT, *, deadline: float
    ) -> ResponseT:
        """Ask a peer (or this node itself) and wait for its answer.

        Args:
            deadline: Absolute trio time; what is left of it travels with the call.

        Raises:
            UnreachableError: Nothing was sent.
            DeadlineError: No answer in time. Once sent, the call may have happened.
            OutcomeUnknown: It was sent and the link was lost.
            FreecloudError: What the handler raised.
        """
        if node_id == self._identity.node_id:
            return await self._server.call_here(self._trust, Caller(node_id, deadline), method, request)
        while True:
            link = await self._link_to(node_id, deadline)
            try:
                return await call_on(link, method, request, deadline)
            except LinkWentAway:
                continue

    @asynccontextmanager
    async def stream(
        self, node_id: NodeId, method: Method[RequestT, ResponseT], request: RequestT, *, deadline: float
    ) -> AsyncIterator[AsyncIterator[ResponseT]]:
        """Ask a peer for many answers: `async with peers.stream(…) as answers: async for answer in answers: …`.

        Leaving the block cancels what still runs at the peer. Raises like `call`, here or while iterating.
        """
        if node_id == self._identity.node_id:
            answers = self._server.stream_here(self._trust, Caller(node_id, deadline), method, request)
            async with aclosing(answers):
                yield answers
            return
        entered = False
        while not entered:
            link = await self._link_to(node_id, deadline)
            try:
                async with stream_on(link, method, request, deadline) as remote:
                    entered = True
                    yield remote
            except LinkWentAway:
                if entered:
                    raise

    def notify(self, node_id: NodeId, method: Method[RequestT, ResponseT], request: RequestT) -> bool:
        """Send without waiting for anything; it may be lost.

        Returns:
            False when it was not sent: no link (then one is being dialled), or too much waits on its lane.
        """
        if node_id == self._identity.node_id:
            self._server.notice_here(self._trust, Caller(node_id, float("inf")), method, request)
            return True
        link = self._links.get(node_id)
        if link is None:
            self._start_dial(node_id)
        elif link.notify(method.lane, method.encode_notice(request)):
            return True
        self._notices_unsent += 1
        return False

    async def open_tunnel(self, node_id: NodeId, kind: str, header: bytes, *, deadline: float) -> Tunnel:
        """A byte stream to the peer's handler of that kind, once it has accepted; raises like `call`.

        The deadline is for the opening alone. The caller closes the tunnel.
        """
        if node_id == self._identity.node_id:
            return await self._open_local_tunnel(kind, header, deadline)
        while True:
            link = await self._link_to(node_id, deadline)
            try:
                return await tunnel_on(link, kind, header, deadline)
            except LinkWentAway:
                continue

    def statistics(self) -> PeersStatistics:
        now = trio.current_time()
        return PeersStatistics(
            links=tuple(
                PeerStatistics(link.hello.node_id, link.dialled, now - link.opened_at, link.statistics())
                for link in self._links.everyone()
            ),
            strangers=self._budget.statistics(),
            strangers_refused=self._strangers_refused,
            dials=self._dials_made,
            dials_failed=self._dials_failed,
            joins_admitted=self._joins_admitted,
            joins_refused=self._joins_refused,
            notices_unsent=self._notices_unsent,
        )

    # What a link asks of its user.

    async def serve_stream(self, link: Link, stream: MuxStream) -> None:
        await self._server.serve(self._trust, link.hello.node_id, stream)

    def take_notice(self, link: Link, lane: Lane, payload: bytes) -> None:
        self._server.take_notice(self._trust, link.hello.node_id, lane, payload)

    def take_last_word(self, link: Link, word: LastWord) -> None:
        self._on_last_word(link.hello.node_id, word)

    def link_retired(self, link: Link) -> None:
        self._links.retired(link)

    # Connections that others open.

    async def _serve_connection(self, socket_stream: trio.SocketStream) -> None:
        stream = TcpStream(socket_stream.socket)
        address = stream.peer_host()
        if not self._budget.enter(address):
            await stream.aclose()
            return
        place = Place(self._budget, address)
        try:
            await self._serve_stranger(stream, place)
        finally:
            place.leave()
            with trio.move_on_after(1.0, shield=True):
                await stream.aclose()

    async def _serve_stranger(self, stream: Stream, place: Place) -> None:
        link: Link | None = None
        with trio.move_on_after(HANDSHAKE_S):
            try:
                tls = TlsStream(stream, self._contexts.server(), server_side=True)
                await tls.handshake()
                if tls.protocol() == ALPN_MESH:
                    link = await self._greeter.greet(
                        tls, self._trust.by_certificate(tls.peer_certificate() or b""), False
                    )
            except FreecloudError as error:
                self._note_stranger(error)
                return
        if link is not None:
            place.leave()
            await self._carry(link)
        elif tls.protocol() == ALPN_JOIN and self.desk is not None:
            if await serve_join(tls, self.desk, self._identity, place.leave):
                self._joins_admitted += 1
            else:
                self._joins_refused += 1

    def _note_refusal(self, node_id: NodeId, error: FreecloudError) -> None:
        self._note_stranger(error)
        if isinstance(error, Dismissed):
            self._on_last_word(node_id, error.word)

    def _note_stranger(self, error: FreecloudError) -> None:
        if error.stable_code == STRANGER:
            self._strangers_refused += 1
            self._on_stranger()

    async def _carry(self, link: Link) -> LinkOver:
        """Have the link in the table for as long as it lives."""
        node_id = link.hello.node_id
        kept = self._links.add(link, trio.current_time())
        over = LinkOver(by_kernel=False, why="this node is stopping")
        if kept:
            self._dial_state(node_id).wake()
        else:
            link.retire()
        try:
            over = await link.run(self)
        finally:
            self._links.remove(link, by_kernel=over.by_kernel)
        return over

    # Connections that we open.

    def _dial_state(self, node_id: NodeId) -> DialState:
        if node_id not in self._dials:
            self._dials[node_id] = DialState(self._rng)
        return self._dials[node_id]

    def _start_dial(self, node_id: NodeId) -> bool:
        """Dial unless it is not the time for it; whether a dial is under way now."""
        peer = self._trust.get(node_id)
        state = self._dials.get(node_id)
        if peer is None or state is None or self._nursery is None:
            return False
        if state.may_dial(trio.current_time()):
            state.dialling = True
            self._nursery.start_soon(self._dial, peer, state)
        return state.dialling

    async def _link_to(self, node_id: NodeId, deadline: float) -> Link:
        while True:
            if (link := self._links.get(node_id)) is not None:
                return link
            if self._trust.get(node_id) is None:
                raise UnreachableError(f"{node_id} is no member that this node knows")
            state = self._dial_state(node_id)
            if not self._start_dial(node_id):
                why = "no address of it is known" if not state.addresses else str(state.last_error or "")
                raise UnreachableError(f"{node_id} cannot be reached", why=why)
            waiting = state.waiting()
            with trio.move_on_at(deadline) as scope:
                await waiting.wait()
            if scope.cancelled_caught:
                raise DeadlineError(f"{node_id} could not be reached in time")

    async def _dial(self, peer: TrustedPeer, state: DialState) -> None:
        """One attempt at each address of the peer; then the link's life."""
        link, stream = None, None
        error: FreecloudError = UnreachableError("no address of the peer is known")
        self._dials_made += 1
        try:
            for address in state.addresses:
                try:
                    link, stream = await self._dial_one(address, peer)
                except FreecloudError as failure:
                    error = failure
                    self._note_refusal(peer.node_id, failure)
                else:
                    state.prefer(address)
                    break
        finally:
            state.dialling = False
        if link is None or stream is None:
            self._dials_failed += 1
            state.failed(trio.current_time(), error)
            return
        try:
            over = await self._carry(link)
        finally:
            with trio.move_on_after(1.0, shield=True):
                await stream.aclose()
        now = trio.current_time()
        if now - link.opened_at < SETTLED_S and self._links.get(peer.node_id) is None:
            state.failed(now, UnreachableError("the link was lost at once", why=over.why))
        else:
            state.settled()

    async def _dial_one(self, address: str, peer: TrustedPeer) -> tuple[Link, Stream]:
        stream: Stream | None = None
        try:
            with trio.move_on_after(DIAL_S):
                stream = await self._dial_address(address)
                tls = TlsStream(stream, self._contexts.dial(peer.certificate), server_side=False)
                await tls.handshake()
                return await self._greeter.greet(tls, peer, True), stream
            raise UnreachableError(f"{address} did not answer in time")
        except BaseException:
            if stream is not None:
                with trio.move_on_after(1.0, shield=True):
                    await stream.aclose()
            raise

    async def _open_local_tunnel(self, kind: str, header: bytes, deadline: float) -> Tunnel:
        if self._nursery is None:
            raise UnreachableError("this node is stopping")
        ours, theirs = local_tunnel()
        caller = Caller(self._identity.node_id, deadline)
        await self._nursery.start(self._server.serve_tunnel_here, self._trust, caller, kind, header, theirs)
        return ours
