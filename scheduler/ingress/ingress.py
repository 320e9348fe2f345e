"""The ingress of one node: which app, which replica, relay, retry within the rules, account for it.

Whoever asks for an app asks any node. Retries (rule A4): any method as long as no byte was written to a replica, safe
methods also when no byte of an answer came, one such retry a request and a fifth of all requests, never a body of
more than 64 KiB. A connection that fails costs nothing, so all replicas may be walked within the deadline.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from mesh.errors import FreecloudError
from mesh.http.connection import Exchange
from mesh.http.forwarding import SAFE_METHODS, Address
from mesh.http.limits import HttpLimits
from mesh.http.messages import Headers, HttpRefused, PeerGone
from mesh.http.relay import Fate, Outcome, RelayLimits, RequestBody, Upstream, relay
from mesh.http.responses import problem
from mesh.http.server import HttpServer, HttpStatistics
from mesh.http.streams import BROKEN
from mesh.http.websocket import refused_handshake
from mesh.names import NodeId
from scheduler.ingress.accounts import Accounts, End, IngressStatistics, RequestRecord
from scheduler.ingress.balance import Balancer, RetryBudget, TargetStatistics
from scheduler.ingress.routes import AppRoute, Asked, Redirect, RouteTable, Target, find_app
from scheduler.ingress.upstreams import UpstreamPool, Upstreams

REQUEST_ID_CHARACTERS_MAX = 64

HELD_MAX = 100
"""Requests that may wait for a replica that is coming, all apps together: as many as one replica may have."""


@dataclass(frozen=True, slots=True)
class IngressConfig:
    """Names and times of one ingress."""

    suffixes: tuple[str, ...] = ("localhost",)  # lower case; NAME.SUFFIX is an app's host
    connect_s: float = 5.0  # one request's time to find a replica that takes it; not counted while one has it
    connect_try_s: float = 2.0  # of that for one replica, or a node behind a dead wire would use up all of it
    hold_s: float = 2.0  # of that, for a replica that is coming while there is no other; gossip takes half a second
    retries_max: int = 1
    http: HttpLimits = field(default_factory=HttpLimits)
    relay: RelayLimits = field(default_factory=RelayLimits)


class Ingress:
    """Serves every app of the mesh on this node's ingress port.

    Args:
        rng: For the balancer's draws.
    """

    def __init__(self, config: IngressConfig, upstreams: Upstreams, rng: random.Random) -> None:
        self.config = config
        self.pool = UpstreamPool(upstreams, config.relay)
        self.balancer = Balancer(rng)
        self.budget = RetryBudget()
        self.accounts = Accounts()
        self.routes = RouteTable()
        self.held = 0
        self._rerouted = trio.Event()
        self._server = HttpServer(self.handle, config.http)

    def set_routes(self, routes: RouteTable) -> None:
        """Serve by this table from the next request on; what is being answered goes on as it is."""
        self.routes = routes
        targets = routes.targets()
        self.balancer.keep_only(targets)
        self.pool.drop_others(targets)
        self._rerouted.set()
        self._rerouted = trio.Event()

    async def wait_rerouted(self, deadline: float) -> bool:
        """Until there is another table; False at the deadline, or at once when too many wait already."""
        if self.held >= HELD_MAX:
            return False
        self.held += 1
        try:
            with trio.move_on_at(deadline):
                await self._rerouted.wait()
                return True
            return False
        finally:
            self.held -= 1

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained or cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pool.expire)
            await self._server.run(listeners, task_status=task_status)
            nursery.cancel_scope.cancel()

    async def drain(self, deadline: float) -> None:
        """Take no more connections, finish what is being answered."""
        await self._server.drain(deadline)

    async def handle(self, exchange: Exchange) -> None:
        """One request, to its account."""
        self.accounts.begin()
        serving = _Serving(self, exchange)
        try:
            await serving.run()
        except HttpRefused:
            serving.end = End.REFUSED
            raise
        except (PeerGone, *BROKEN):
            serving.end = End.CLIENT_GONE
            raise
        except BaseException:
            serving.end = End.CUT
            raise
        finally:
            self.accounts.end(serving.record())

    def requests(self) -> tuple[RequestRecord, ...]:
        """The last requests, oldest first."""
        return self.accounts.recent()

    def statistics(self) -> IngressStatistics:
        return self.accounts.statistics()

    def http_statistics(self) -> HttpStatistics:
        return self._server.statistics()

    def target_statistics(self) -> tuple[TargetStatistics, ...]:
        return self.balancer.statistics()


class _Serving:
    """One request on its way: what was tried, and how it ends."""

    def __init__(self, ingress: Ingress, exchange: Exchange) -> None:
        self._ingress = ingress
        self._exchange = exchange
        self._request = exchange.request
        self._safe = exchange.request.method in SAFE_METHODS
        self._began = trio.current_time()
        self._at_ms = int(time.time() * 1000)
        self._app = ""
        self._search_until = self._began
        self._target: Target | None = None
        self._tried: list[Target] = []
        self._retries = 0  # charged to the budget
        self._replaced = 0  # kept connections that ended under a request, which was sent anew over a fresh one
        self._status = 0
        self._outcome: Outcome | None = None
        self._detail = ""
        self.end = End.SERVED

    def record(self) -> RequestRecord:
        """The request's account."""
        target, outcome = self._target, self._outcome
        node: NodeId | None = target.node if target is not None else None
        return RequestRecord(
            at_ms=self._at_ms,
            app=self._app,
            method=self._request.method,
            replica_id=target.replica_id if target is not None else "",
            node=node,
            status=self._status,
            bytes_sent=outcome.bytes_sent if outcome is not None else 0,
            tries=len(self._tried) + self._replaced,
            retries=self._retries + self._replaced,
            duration_s=trio.current_time() - self._began,
            end=self.end,
            detail=self._detail,
            request_id=(self._request.header(b"x-request-id") or b"")[:REQUEST_ID_CHARACTERS_MAX].decode("latin-1"),
        )

    async def run(self) -> None:
        asked = find_app(
            self._request.host.decode("latin-1"), self._request.path.decode("latin-1"), self._ingress.config.suffixes
        )
        if isinstance(asked, Redirect):
            await self._redirect(asked)
            return
        route = self._ingress.routes.apps.get(asked.app) if asked is not None else None
        if asked is None or route is None:
            await self._refuse_unknown(asked)
            return
        self._app = route.name
        if await refused_handshake(self._exchange):
            self.end, self._status = End.REFUSED, 400
            return
        self._ingress.budget.note_request(trio.current_time())
        await self._serve(asked)

    async def _serve(self, asked: Asked) -> None:
        """Ask one replica after the other, as long as the rules allow it."""
        body = RequestBody(self._exchange)
        if body.small:
            await body.whole()  # a slow client holds no replica's place meanwhile
        self._allow_search()
        while (target := await self._find()) is not None:
            self._target = target
            self._tried.append(target)
            self._ingress.balancer.begin(target)
            latency_s, fault = None, True
            try:
                outcome = await self._try(target, body, self._address(asked, target))
                if outcome is not None and outcome.fate in (Fate.SERVED, Fate.BROKEN):
                    latency_s = outcome.answered_s
            except BaseException:
                fault = False
                raise
            finally:
                if fault:
                    self._ingress.balancer.end(trio.current_time(), target, latency_s)
                else:
                    self._ingress.balancer.release(target)
            if outcome is not None and not self._may_retry(outcome, body):
                await self._conclude(outcome)
                return
        await self._give_up()

    def _allow_search(self) -> None:
        """From now: a node that vanished without a word is found out after seconds that its request has waited."""
        self._search_until = trio.current_time() + self._ingress.config.connect_s

    async def _find(self) -> Target | None:
        """The next replica; while there is none and one is coming, it is waited for (users' pain 19)."""
        patience = min(self._search_until, trio.current_time() + self._ingress.config.hold_s)
        while True:
            target = self._choose()
            route = self._ingress.routes.apps.get(self._app)
            if target is not None or route is None or not route.coming:
                return target
            if not set(self._tried).issuperset((*route.ready, *route.suspected)):
                return None  # there is one, and it is full
            if not await self._ingress.wait_rerouted(patience):
                return None

    def _choose(self) -> Target | None:
        """The next replica, by the table of this moment; those under suspicion when nobody else is left."""
        route = self._ingress.routes.apps.get(self._app)
        now = trio.current_time()
        if route is None or now >= self._search_until:
            return None
        balancer = self._ingress.balancer
        return balancer.choose(now, route.ready, self._tried) or balancer.choose(now, route.suspected, self._tried)

    async def _try(self, target: Target, body: RequestBody, address: Address) -> Outcome | None:
        """Relay to one replica; None when it could not be reached, so that nothing was written."""
        pool = self._ingress.pool
        kept = pool.take(target) if self._safe and not self._replaced else None
        if kept is not None:
            outcome = await self._relay(target, kept, body, address)
            if outcome.fate is not Fate.NO_ANSWER or not body.replayable:
                return outcome
            # It rested too long and was closed meanwhile, which is nobody's fault, or its replica died: opening a
            # fresh one tells. Once a request, so that one is never sent more than three times.
            self._replaced += 1
        try:
            until = min(self._search_until, trio.current_time() + self._ingress.config.connect_try_s)
            upstream = await pool.open(target, deadline=until)
        except (FreecloudError, *BROKEN) as error:
            self._detail = str(error)
            return None
        return await self._relay(target, upstream, body, address)

    async def _relay(self, target: Target, upstream: Upstream, body: RequestBody, address: Address) -> Outcome:
        try:
            self._outcome = await relay(self._exchange, upstream, body, address, self._ingress.config.relay)
        except BaseException:
            await upstream.aclose()
            raise
        await self._ingress.pool.put_back(target, upstream)
        self._allow_search()
        return self._outcome

    def _address(self, asked: Asked, target: Target) -> Address:
        query = self._request.query
        path = asked.path.encode("latin-1")
        whole = path + b"?" + query if query or self._request.target.endswith(b"?") else path
        index = b"%d" % target.assignment_index
        return Address(whole, asked.prefix.encode(), ((b"x-freecloud-assignment", index),))

    def _may_retry(self, outcome: Outcome, body: RequestBody) -> bool:
        """Written, and not a byte came back: only what may be done twice is sent again, and only from the budget."""
        if outcome.fate is not Fate.NO_ANSWER or not self._safe or not body.replayable:
            return False
        if self._retries >= self._ingress.config.retries_max or not self._ingress.budget.take(trio.current_time()):
            return False
        self._retries += 1
        return True

    async def _conclude(self, outcome: Outcome) -> None:
        """How the last try's fate is told to the client and to the log."""
        self._detail = outcome.detail
        match outcome.fate:
            case Fate.SERVED:
                self._status = outcome.status
                self.end = End.UPGRADED if outcome.upgraded else End.SERVED
            case Fate.BROKEN:
                self._status, self.end = outcome.status, End.BROKEN
            case Fate.TIMED_OUT:
                await self._answer(End.TIMED_OUT, 504, f"{self._app} did not answer in time", "ingress.timeout")
            case Fate.NO_ANSWER:
                hint = "" if self._safe else "it may have been done all the same: look before you send it again"
                title = f"{self._app} ended the connection without an answer"
                await self._answer(End.NO_ANSWER, 502, title, "ingress.no-answer", hint=hint)
            case Fate.BAD_ANSWER:
                await self._answer(End.BAD_ANSWER, 502, f"{self._app} answered with no HTTP", "ingress.bad-answer")

    async def _give_up(self) -> None:
        """Nobody took the request: say whether there is nobody, or nobody free, or nobody reachable."""
        name = self._app
        route = self._ingress.routes.apps.get(name) or AppRoute(name, (), (), 0)
        candidates = (*route.ready, *route.suspected)
        again: Headers = [(b"retry-after", b"1")]
        if self._outcome is not None:
            await self._conclude(self._outcome)
        elif self._tried:
            title = f"no replica of {name} could be reached"
            hint = f"nothing was done; `freecloud apps show {name}` tells where it runs"
            await self._answer(End.UNREACHABLE, 502, title, "ingress.unreachable", hint=hint, extra=again)
        elif candidates:
            title = f"every replica of {name} is busy"
            hint = f"`freecloud apps scale {name} --replicas N` adds more"
            await self._answer(End.BUSY, 503, title, "ingress.busy", hint=hint, extra=again)
        else:
            title = f"{name} has no healthy replica"
            hint = f"`freecloud apps why {name}` tells why"
            await self._answer(End.NO_REPLICA, 503, title, "ingress.no-replica", hint=hint, extra=again)

    async def _refuse_unknown(self, asked: Asked | None) -> None:
        if asked is not None:
            self._app = asked.app
            title, hint = f"there is no app {asked.app}", "`freecloud apps list` shows all"
            await self._answer(End.NO_APP, 404, title, "ingress.no-app", hint=hint)
            return
        title = "this address names no app"
        hint = f"ask for NAME.{self._ingress.config.suffixes[0]} or /apps/NAME/"
        await self._answer(End.NO_APP, 404, title, "ingress.no-app", hint=hint)

    async def _redirect(self, redirect: Redirect) -> None:
        location = redirect.path.encode("latin-1")
        if self._request.query:
            location += b"?" + self._request.query
        self._status = 308
        await self._exchange.respond(308, [(b"location", location)])

    async def _answer(
        self, end: End, status: int, title: str, code: str, *, hint: str = "", extra: Headers | None = None
    ) -> None:
        """The ingress's own answer: a problem document that names what is wrong and nothing internal."""
        self.end, self._status = end, status
        headers, body = problem(status, title, code=code, hint=hint)
        await self._exchange.respond(status, [*headers, *(extra or [])], body)
