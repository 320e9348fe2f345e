"""Deploy, scale, roll back, remove, plan and explain: what a user asks, turned into entries; any node takes it.

A source lies on two nodes before the release that names it is proposed (rule A1). Where there is only one node, or no
other takes it in time, that is a debt: told at once, shown as long as it lasts, and paid by `settle_debts`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import trio

from consensus.ledger import Ledger
from consensus.ledger_entries import PutRelease, RemoveApp, ScaleApp, SetApp
from consensus.records import App, Assignment, Release, ReleaseState
from gossip.members import MemberState
from gossip.view import MemberView
from mesh.errors import ConflictError, MissingError, RefusedError, UsageError
from mesh.names import NodeId
from scheduler.bundles import SHORT_HEX, BundleStore
from scheduler.exchange import BundleExchange
from scheduler.forecast import Forecast, Step, forecast
from scheduler.looking import look
from scheduler.manifest import Manifest, decode_manifest, encode_manifest, parse
from scheduler.model import ClusterView, Condition, condition_of
from scheduler.reconcile import reconcile

COPIES = 2
FIVE = 5
COPIES_OF_FIVE = 3
"""Of five members the ledger outlives two, and the three that go on have to be able to start every app."""
PUSH_S = 20.0
RETRIES = 3
DEBT_RETRY_S = 30.0
FRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class Deployed:
    """A release that is agreed; whether it becomes healthy is the rollout's affair."""

    app: str
    release: int
    holders: tuple[NodeId, ...]
    debts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an app is as it is, line by line."""

    app: str
    lines: tuple[str, ...]
    troubled: tuple[str, ...] = ()  # replicas whose last words may tell more


class Scheduler:
    """The user's side of the scheduler, on every node.

    Args:
        me: This node.
        ledger: Proposed to.
        sights: What gossip sees now.
        store, exchange: Where sources are.
        now_ms: The wall clock; part of a release for people, ordering nothing.
    """

    def __init__(
        self,
        me: NodeId,
        *,
        ledger: Ledger,
        sights: Callable[[], Mapping[NodeId, MemberView]],
        store: BundleStore,
        exchange: BundleExchange,
        now_ms: Callable[[], int],
    ) -> None:
        self._me = me
        self._ledger = ledger
        self._sights = sights
        self._store = store
        self._exchange = exchange
        self._now_ms = now_ms

    # --- changing ---------------------------------------------------------------------------------------------

    async def deploy(self, manifest_text: str, bundle: str | AsyncIterable[bytes], *, deadline: float) -> Deployed:
        """Make this the app's current release.

        Args:
            manifest_text: The app.yaml.
            bundle: The name of a source that is in the store, or the archive itself.
            deadline: For the copy and the agreement together.

        Raises:
            ManifestError: With line and column.
            MissingError: The source is not here, or a secret that it names is not set.
            ConflictError: The app was deployed from elsewhere again and again meanwhile.
            NoQuorumError, OutcomeUnknown: As `Ledger.propose`.
        """
        manifest = parse(manifest_text)
        self._check(manifest)
        if not isinstance(bundle, str):
            bundle = (await self._store.put(bundle)).bundle
        if not self._store.has(bundle):
            raise MissingError("the source is not on this node", hint="hand it over first (POST /v1/bundles)")
        wanted = COPIES - 1
        others = await self._exchange.push(
            bundle, self._candidates(), wanted, deadline=min(deadline, trio.current_time() + PUSH_S)
        )
        holders = (self._me, *others)
        debts = () if len(holders) >= COPIES else (self._debt_text(),)
        number = await self._put_release(manifest, manifest_text, bundle, holders, deadline)
        return Deployed(manifest.name, number, holders, debts)

    async def scale(self, app: str, replicas: int, *, deadline: float) -> None:
        """Want so many replicas from now on."""
        known = self._app(app)
        manifest = self._manifest(known)
        if manifest.exclusive and replicas > 1:
            raise UsageError(f"{app} is exclusive: it has at most one replica")
        await self._ledger.propose(ScaleApp(app, replicas), deadline=deadline)

    async def remove(self, app: str, *, deadline: float) -> None:
        """Stop it everywhere and forget it."""
        try:
            await self._ledger.propose(RemoveApp(app), deadline=deadline)
        except MissingError as error:  # asked of the ledger: this node's copy may not know the app yet
            raise _no_app(app) from error

    async def rollback(self, app: str, to: int | None, *, deadline: float) -> int:
        """Make an earlier release current again; the last stable one if none is named. Returns its number."""
        known = self._app(app)
        target = known.previous_stable if to is None else to
        if target == known.current:
            raise RefusedError(f"{app} runs release {target} already", code="app.current")
        if target == 0:
            raise MissingError(f"{app} has no earlier stable release", hint="name one: --to RELEASE")
        if (app, target) not in self._ledger.state.releases:
            raise MissingError(f"{app} has no release {target} (any more)", hint=f"see `freecloud apps show {app}`")
        stable = known.current if known.state is ReleaseState.STABLE else known.previous_stable
        wished = replace(
            known, current=target, previous_stable=stable, state=ReleaseState.ROLLING, reason="rolled back by hand"
        )
        await self._ledger.propose(SetApp(known.current, wished), deadline=deadline)
        return target

    async def settle_debts(self, wait: Callable[[float], Awaitable[None]]) -> None:
        """For ever: hand sources that too few nodes have to another one, and drop those that no release names.

        Each node pays its own. It is woken by every change; the same nodes are asked again after half a minute only.
        """
        asked: dict[str, tuple[Sequence[NodeId], float]] = {}
        while True:
            lonely = self._lonely()
            asked = {bundle: last for bundle, last in asked.items() if bundle in lonely}
            for bundle in lonely:
                candidates = [node for node in self._candidates() if not self._holds(node, bundle)]
                now = trio.current_time()
                last, at = asked.get(bundle, ((), -inf))
                if set(candidates) == set(last) and now < at + DEBT_RETRY_S:
                    continue
                asked[bundle] = (candidates, now)
                await self._exchange.push(bundle, candidates, 1, deadline=now + PUSH_S)
            if self._ledger.age() < FRESH_S:  # an old copy does not name the sources of newer releases
                await self._exchange.collect({release.bundle for release in self._ledger.state.releases.values()})
            await wait(trio.current_time() + DEBT_RETRY_S)

    # --- looking ----------------------------------------------------------------------------------------------

    async def plan(self, manifest_text: str, *, deadline: float) -> Forecast:
        """What a deploy of this manifest would do if all goes well, and why; nothing is proposed."""
        manifest = parse(manifest_text)
        self._check(manifest)
        view = look(trio.current_time(), self._ledger.state, self._sights())
        number = self._next_number(manifest.name)
        release = Release(manifest.name, number, "", 0, encode_manifest(manifest), manifest_text, 0, ())
        old = view.apps.get(manifest.name)
        app = App(
            manifest.name,
            number,
            _last_stable(old),
            manifest.replicas,
            ReleaseState.ROLLING,
            "",
            self._now_ms(),
            old.next_replica if old else 1,
        )
        wished = replace(
            view,
            apps={**view.apps, app.name: app},
            releases={**view.releases, (app.name, number): release},
        )
        told = forecast(wished, app.name)
        first = Step("~", f"release {number} of {app.name}" + (f" replaces {old.current}" if old else ""))
        return Forecast((first, *told.steps), told.reasons)

    def why(self, app: str) -> Explanation:
        """Where each replica is and why, how it is, and what stands in the way of what is missing.

        Raises:
            MissingError: No such app.
        """
        known = self._app(app)
        view = look(trio.current_time(), self._ledger.state, self._sights())
        lines = [
            f"{app}: release {known.current} is {known.state.value}" + (f" ({known.reason})" if known.reason else "")
        ]
        placed = [one for _, one in sorted(view.assignments.items()) if one.app == app]
        lines.append(f"{known.replicas} replicas wanted, {len(placed)} placed")
        lines += [_replica_line(view, assignment) for assignment in placed]
        plan = reconcile(view)
        lines += [f"next: {reason.text}" for reason in plan.reasons if reason.app == app]
        lines += [f"debt: {debt}" for debt in self.debts(app)]
        troubled = [one.replica_id for one in placed if condition_of(view, one) in (Condition.BAD, Condition.FAILED)]
        return Explanation(app, tuple(lines), tuple(troubled))

    def debts(self, app: str) -> tuple[str, ...]:
        """What should exist and does not yet."""
        known = self._app(app)
        release = self._ledger.state.releases[app, known.current]
        holders = [node for node in self._alive() if self._holds(node, release.bundle)]
        return () if len(holders) >= COPIES else (self._debt_text(),)

    def jobs(self) -> tuple[object, ...]:
        """Background work of the scheduler on this node: none that lasts."""
        return ()

    # --- parts ------------------------------------------------------------------------------------------------

    async def _put_release(
        self, manifest: Manifest, text: str, bundle: str, holders: tuple[NodeId, ...], deadline: float
    ) -> int:
        """Propose it under the next number; a deploy from elsewhere at the same time makes this one the later."""
        size = self._store.size_of(bundle)
        for attempt in range(RETRIES):
            number = self._next_number(manifest.name)
            release = Release(
                manifest.name, number, bundle, size, encode_manifest(manifest), text, self._now_ms(), holders
            )
            try:
                committed = await self._ledger.propose(PutRelease(release, manifest.replicas), deadline=deadline)
            except ConflictError:
                if attempt == RETRIES - 1:
                    raise
                await self._ledger.read_barrier(deadline=deadline)
            else:
                await self._ledger.wait_index(committed.index, deadline=deadline)
                return number
        raise AssertionError("every attempt returns or raises")

    def _check(self, manifest: Manifest) -> None:
        unset = [name for name in manifest.secrets if name not in self._ledger.state.secrets]
        if unset:
            raise MissingError(f"the secret {unset[0]} is not set", hint=f"freecloud secrets set {unset[0]}")

    def _app(self, name: str) -> App:
        app = self._ledger.state.apps.get(name)
        if app is None:
            raise _no_app(name)
        return app

    def _manifest(self, app: App) -> Manifest:
        return decode_manifest(self._ledger.state.releases[app.name, app.current].manifest)

    def _next_number(self, app: str) -> int:
        return 1 + max((number for name, number in self._ledger.state.releases if name == app), default=0)

    def _alive(self) -> list[NodeId]:
        members = self._ledger.state.active_members()
        views = self._sights()
        return [
            node_id
            for node_id, member in sorted(members.items())
            if member.trusted
            and (node_id == self._me or (node_id in views and views[node_id].state is MemberState.ALIVE))
        ]

    def _candidates(self) -> Sequence[NodeId]:
        """Who could keep a second copy: another zone first, then who has the most room."""
        members, views = self._ledger.state.members, self._sights()
        mine = members[self._me].zone if self._me in members else ""

        def rank(node_id: NodeId) -> tuple[bool, float, NodeId]:
            record = views[node_id].record
            room = record.disk_free_bytes if record is not None else -inf
            return (members[node_id].zone == mine, -room, node_id)

        return sorted((node for node in self._alive() if node != self._me), key=rank)

    def _holds(self, node_id: NodeId, bundle: str) -> bool:
        if node_id == self._me:
            return self._store.has(bundle)
        record = self._sights()[node_id].record
        return record is not None and bundle[:SHORT_HEX] in record.bundles

    def _lonely(self) -> list[str]:
        """Bundles of current releases that lie here, while too few others alive say that they have them.

        Beyond the second copy the first holder by name alone sees to it, or all would at once.
        """
        state, alive = self._ledger.state, self._alive()
        trusted = sum(member.trusted for member in state.active_members().values())
        wanted = min(COPIES_OF_FIVE if trusted >= FIVE else COPIES, len(alive))
        current = {state.releases[app.name, app.current].bundle for app in state.apps.values()}
        lonely = []
        for bundle in sorted(bundle for bundle in current if self._store.has(bundle)):
            holders = [node for node in alive if self._holds(node, bundle)]
            if len(holders) < wanted and (len(holders) < COPIES or holders[0] == self._me):
                lonely.append(bundle)
        return lonely

    def _debt_text(self) -> str:
        return "its source lies on one node only; a second copy is made as soon as another node takes it"


def holders_first(
    me: NodeId, bundle: str, releases: Mapping[tuple[str, int], Release], views: Mapping[NodeId, MemberView]
) -> list[NodeId]:
    """Who may give this bundle: those who say so now, then those who had it when it was deployed."""
    saying = [
        node_id
        for node_id, view in sorted(views.items())
        if view.record is not None and bundle[:SHORT_HEX] in view.record.bundles
    ]
    had = [node_id for release in releases.values() if release.bundle == bundle for node_id in release.holders]
    return [node_id for node_id in dict.fromkeys((*saying, *had)) if node_id != me]


def _no_app(name: str) -> MissingError:
    return MissingError(f"no app {name!r}", hint="see `freecloud apps list`")


def _last_stable(app: App | None) -> int:
    if app is None:
        return 0
    return app.current if app.state is ReleaseState.STABLE else app.previous_stable


def _replica_line(view: ClusterView, assignment: Assignment) -> str:
    report = view.report(assignment)
    condition = condition_of(view, assignment)
    if condition is Condition.GONE:
        how = "gone with its node"
    elif condition is Condition.UNSEEN:
        how = "not heard of now"
    elif report is None:
        how = "assigned, and not begun yet"
    else:
        times = f", restarted {report.restarts} times" if report.restarts > 1 else ""
        how = report.health.value + times + (f": {report.detail}" if report.detail else "")
    where = view.name_of(assignment.node)
    return f"{assignment.replica_id} on {where} is {how}; placed there because: {assignment.reason}"
