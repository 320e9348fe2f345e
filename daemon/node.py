"""One node, from its configuration to its end: the wiring, top to bottom.

It reads as a table of contents. Nothing is decided here; each part is made, told whom to talk to, and run in one
nursery that ends with the node.
"""

from __future__ import annotations

import os
import random
import signal

import trio

from consensus.disk import RealDisk
from consensus.duty_loop import DutyLoop
from consensus.leader_duties import KeyMaker
from consensus.ledger import Ledger
from consensus.log_store import LogStore
from daemon.api.app import Api
from daemon.api.clock import wall_ms
from daemon.config import Config
from daemon.events import EventLog
from daemon.founding import founding_entry, new_mesh_id
from daemon.hearsay import Hearsay
from daemon.home import Home
from daemon.in_step import InStep
from daemon.invites import Desk
from daemon.joining import belong, identity_of
from daemon.keys import GOSSIP, KeyHolder, new_generation
from daemon.listeners import Listeners, trio_listener
from daemon.membership import MeshFile, trusted_peers
from daemon.own_record import OwnRecord
from daemon.parting import Leaving, Parting
from daemon.pulse import Pulse
from daemon.ready import Ready
from daemon.registration import MEMORY_GONE, Registration
from daemon.sealed_secrets import SealedSecrets
from daemon.services import Services
from daemon.sights import group_facts, sights_of
from daemon.tls import api_tls
from daemon.version import FEATURE_LEVEL, VERSION
from gossip.seal import GossipKey, KeyRing
from gossip.service import Gossip, GossipConfig
from mesh.errors import FencedError, FreecloudError
from mesh.hello import Hello
from mesh.http.asgi import serve_asgi
from mesh.names import NodeId
from mesh.peers import Peers
from mesh.rpc import RpcServer
from mesh.trust import TrustStore
from scheduler.app_exec import AppExec
from scheduler.app_logs import AppLogs
from scheduler.bundles import BundleStore
from scheduler.exchange import BundleExchange
from scheduler.ingress.detour import register_detour, way_round
from scheduler.ingress.following import RouteFollower
from scheduler.ingress.ingress import Ingress, IngressConfig
from scheduler.ingress.landing import register_landing
from scheduler.ingress.local import LocalReplicas
from scheduler.ingress.upstreams import MeshUpstreams
from scheduler.leader import SchedulerLeader
from scheduler.runner import Runner, RunnerConfig, folders_under
from scheduler.runtimes.cgroups import find_control_groups
from scheduler.runtimes.process import ProcessRuntime
from scheduler.runtimes.refusing import RefusingRuntime, no_rung
from scheduler.runtimes.sandbox import Rung
from scheduler.runtimes.sandbox_probe import Probed, probe_ladder
from scheduler.service import Scheduler, holders_first

FOUND_S = 10.0
"""To make a mesh of one."""


class Node:
    """The parts of one start of a node.

    Args:
        story: What came before this start and should be told with it; "" for nothing.
    """

    def __init__(self, config: Config, home: Home, listeners: Listeners, ready: Ready, story: str = "") -> None:
        self._config = config
        self._home = home
        self._listeners = listeners
        self._ready = ready
        self._rng = random.Random()
        self._events = EventLog(wall_ms)
        self._story = [story] if story else []
        self._pulse = Pulse()
        self._stop = trio.Event()
        self._leaving = Leaving.FOR_GOOD
        self._failure: FreecloudError | None = None
        self.identity = identity_of(home, config.passphrase)

    async def run(self) -> None:
        """Everything, in the order in which it can be: memory, mesh, agreement, apps, API."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._find_sandbox)  # a third of a second, in other processes
            await self._open_memory()
        self._make_mesh()
        self._make_ledger()
        self._make_apps()
        self._make_api()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_signals)
            await nursery.start(self._peers.run, [trio_listener(self._listeners.mesh)])
            await self._start_ledger(nursery)
            self._reach_out()
            if self._registration.is_unsure:
                nursery.start_soon(self._take_part_once_named, nursery)
            else:
                await self._take_part(nursery)
            await self._start_api(nursery)
            await self._registration.wait(self._ledger)
            if not self._stop.is_set():
                self._tell_ready()
            await self._stop.wait()
            await self._parting.say_goodbye(self._leaving)
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    # --- memory and membership ------------------------------------------------------------------------------

    async def _open_memory(self) -> None:
        """The log, this start's number, and the mesh that this home belongs to."""
        home = self._home
        self._log = await trio.to_thread.run_sync(
            lambda: LogStore.open(RealDisk(home.log), self.identity.derive_key("log"), random_bytes=os.urandom)
        )
        self._registration = await trio.to_thread.run_sync(Registration, home, self.identity.node_id, self._log)
        self._boot = self._registration.boot
        mesh_address = self._listeners.addresses["mesh"]
        self._belongs: MeshFile | None = await belong(
            self._config, home, self.identity, self._boot, mesh_address, remembers=not self._log.is_empty
        )
        if self._registration.hear(self._belongs.members if self._belongs else ()) and not self._story:
            self._story.append(MEMORY_GONE)
        for text in self._story:
            self._events.add("node.memory", text)
        # No mesh file may also mean that a first start was cut short; what the log holds then is looked at again.
        self._founding = self._belongs is None
        self._mesh_id = self._belongs.mesh_id if self._belongs else new_mesh_id()

    # --- mesh and gossip ------------------------------------------------------------------------------------

    def _make_mesh(self) -> None:
        belongs = self._belongs
        self._trust = TrustStore()
        if belongs is not None:
            self._trust.update(trusted_peers({member.node_id: member for member in belongs.members}, frozenset()))
        self._server = RpcServer()
        self._peers = Peers(
            self.identity,
            self._trust,
            self._server,
            self._hello,
            rng=self._rng,
            on_stranger=self._on_stranger,
            on_last_word=lambda node_id, word: self._hearsay.take(node_id, word),
        )
        self._keys = KeyHolder(self.identity)
        known = {(key.purpose, key.generation): key for key in belongs.keys} if belongs else {}
        ring = self._keys.ring(known, GOSSIP)
        self._gossip = Gossip(
            GossipConfig(address=self._config.advertise or self._listeners.addresses["mesh"]),
            self.identity,
            boot_counter=self._boot.counter,
            boot_nonce=self._boot.nonce,
            keyring=KeyRing(tuple(GossipKey(generation, key) for generation, key in ring)),
            peers=self._peers,
            rng=self._rng,
            clock=wall_ms,
        )
        self._gossip.register(self._server)
        if belongs is not None:
            self._gossip.set_members({member.node_id: member.public_key for member in belongs.members})
            for member in belongs.members:
                if member.node_id != self.identity.node_id:
                    self._peers.set_addresses(member.node_id, member.addresses)
                    self._gossip.set_addresses(member.node_id, member.addresses)

    def _hello(self) -> Hello:
        mesh = self._ledger.state.mesh
        return Hello(
            mesh_id=self._mesh_id,
            node_id=self.identity.node_id,
            epoch=mesh.epoch if mesh else 1,
            ledger_index=self._ledger.state.applied,
            store_id=self._boot.store_id,
            boot_counter=self._boot.counter,
            boot_nonce=self._boot.nonce,
            program_version=VERSION,
            feature_level=FEATURE_LEVEL,
            addresses=(self._config.advertise or self._listeners.addresses["mesh"],),
        )

    def _on_stranger(self) -> None:
        self._ledger.catch_up()

    # --- agreement ------------------------------------------------------------------------------------------

    def _make_ledger(self) -> None:
        self._ledger = Ledger(
            self.identity.node_id,
            self._mesh_id,
            self._boot,
            log=self._log,
            snapshots=RealDisk(self._home.snapshots),
            key=self.identity.derive_key("snapshots"),
            founder=self._founding,
            peers=self._peers,
            server=self._server,
            rng=self._rng,
            wall_ms=wall_ms,
            contacts=[member.node_id for member in self._belongs.members] if self._belongs else (),
            doubt=self._registration.doubt,
        )
        self._peers.desk = Desk(self._ledger, self.identity, self._keys, self._events.add)
        self._hearsay = Hearsay(self._ledger, self._trust, self._registration.standing, self._stop_with)
        self._secrets = SealedSecrets(self._ledger, self._keys)
        self._in_step = InStep(
            identity=self.identity,
            home=self._home,
            trust=self._trust,
            peers=self._peers,
            gossip=self._gossip,
            ledger=self._ledger,
            keys=self._keys,
            events=self._events,
            pulse=self._pulse,
            standing=self._registration.standing,
            stop_with=self._stop_with,
        )
        self._duties = DutyLoop(
            self._ledger,
            self.identity.node_id,
            KeyMaker(new_generation, self._secrets.reseal),
            sights=lambda: sights_of(self._gossip),
            group=lambda: group_facts(self._ledger),
            wait=self._pulse.reader(),
            wall_ms=wall_ms,
            note=self._events.add,
        )

    async def _start_ledger(self, nursery: trio.Nursery) -> None:
        await nursery.start(self._ledger.run)
        if self._founding:
            await self._found(trio.current_time() + FOUND_S)
        self._in_step.apply()
        nursery.start_soon(self._in_step.follow_ledger)
        nursery.start_soon(self._in_step.follow_gossip)
        nursery.start_soon(self._registration.run, self._ledger, self._pulse, self._stop_with)
        nursery.start_soon(self._duties.run)

    async def _found(self, deadline: float) -> None:
        """Make the mesh, unless an earlier start of this home got that far, or the log knows one."""
        if self._ledger.state.mesh is None:
            await self._ledger.read_barrier(deadline=deadline)
        if self._ledger.state.mesh is None:
            address = self._listeners.addresses["mesh"]
            entry = founding_entry(self._mesh_id, self._config, self.identity, self._boot, address, wall_ms())
            await self._ledger.create_mesh(entry, deadline=deadline)
        mesh = self._ledger.state.mesh
        assert mesh is not None, "the first entry makes the mesh"
        self._mesh_id = mesh.mesh_id

    def _reach_out(self) -> None:
        """Whoever decides names this start, or tells that it was removed; any member may hear another start of it."""
        voters = () if self._registration.is_unsure else self._ledger.quorum().voters
        for node_id in voters or self._trust.members():
            self._peers.reach(node_id)

    async def _take_part_once_named(self, nursery: trio.Nursery) -> None:
        await self._registration.named.wait()
        await self._take_part(nursery)

    async def _take_part(self, nursery: trio.Nursery) -> None:
        """Be seen by the others, and run what belongs here."""
        await nursery.start(self._gossip.run, self._listeners.gossip)
        await self._start_apps(nursery)

    # --- apps and their ingress -----------------------------------------------------------------------------

    async def _find_sandbox(self) -> None:
        config = self._config
        self._groups = await trio.to_thread.run_sync(find_control_groups, self.identity.node_id)
        self._probed: Probed = await probe_ladder(
            self._home.apps,
            seed=self.identity.node_id,
            groups=self._groups,
            only=None if config.sandbox == "auto" else Rung(config.sandbox),
            unsandboxed=config.unsandboxed,
        )

    def _make_apps(self) -> None:
        config, home = self._config, self._home
        self._bundles = BundleStore(home.bundles, key=self.identity.derive_key("bundles"))
        self._exchange = BundleExchange(self._bundles, self._peers, self._server, self._holders)
        self._local = LocalReplicas(lambda replica, index: self._runner.local_port(replica, index))
        self._runner = self._make_runner()
        self._make_ingress()
        self._logs = AppLogs(home.logs, self._peers, self._living)
        self._logs.register(self._server)
        self._exec = AppExec(self._runner.replica, self._peers)
        self._exec.register(self._server)
        self._scheduler = Scheduler(
            self.identity.node_id,
            ledger=self._ledger,
            sights=self._gossip.view,
            store=self._bundles,
            exchange=self._exchange,
            now_ms=wall_ms,
        )
        self._leader = SchedulerLeader(
            self._ledger, sights=self._gossip.view, wait=self._pulse.reader(), note=self._events.add
        )
        self._own = OwnRecord(
            config,
            self.identity.node_id,
            self._boot.counter,
            self._listeners.addresses,
            self._probed.rung,
            gossip=self._gossip,
            ledger=self._ledger,
            bundles=self._bundles,
            reports=self._runner.reports,
        )
        self._parting = Parting(
            ledger=self._ledger,
            gossip=self._gossip,
            runner=self._runner,
            groups=self._groups,
            ingress=self._ingress,
            note=self._events.add,
        )

    def _make_ingress(self) -> None:
        me, detour = self.identity.node_id, way_round(self._gossip.view, self._peers, self._rng)
        self._ingress = Ingress(IngressConfig(), MeshUpstreams(me, self._peers, self._local, detour), self._rng)
        register_landing(self._server, self._local)
        register_detour(self._server, self._peers)
        self._routes = RouteFollower(me, self._ledger, self._gossip, self._runner.reports, self._ingress.set_routes)

    def _holders(self, bundle: str) -> list[NodeId]:
        return holders_first(self.identity.node_id, bundle, self._ledger.state.releases, self._gossip.view())

    def _make_runner(self) -> Runner:
        member = self._ledger.state.members.get(self.identity.node_id)
        name = member.name if member else self._belongs.name if self._belongs else self._config.name
        probed = self._probed.sandbox
        sandbox = probed or no_rung(self.identity.node_id)
        runtime = ProcessRuntime(sandbox, groups=self._groups) if probed else RefusingRuntime()
        return Runner(
            RunnerConfig(self.identity.node_id, name, self._config.zone),
            ledger=self._ledger,
            bundles=self._exchange,
            runtime=runtime,
            sandbox=sandbox,
            folders=folders_under(self._home.root),
            open_secrets=self._secrets.open,
            on_change=self._apps_changed,
            rng=self._rng,
            wait_idle=self._local.wait_idle,
        )

    def _living(self) -> frozenset[str]:
        return frozenset(report.replica_id for report in self._runner.reports())

    def _apps_changed(self) -> None:
        self._own.changed()
        self._routes.wake()
        self._pulse.beat()

    async def _start_apps(self, nursery: trio.Nursery) -> None:
        await self._bundles.open_store()
        await nursery.start(self._runner.run)
        await nursery.start(self._ingress.run, [trio_listener(self._listeners.ingress)])
        await nursery.start(self._routes.run)
        nursery.start_soon(self._own.run)
        nursery.start_soon(self._leader.run)
        nursery.start_soon(self._scheduler.settle_debts, self._pulse.reader())

    # --- the API --------------------------------------------------------------------------------------------

    def _make_api(self) -> None:
        self._api = Api(
            Services(
                config=self._config,
                home=self._home,
                identity=self.identity,
                addresses=self._listeners.addresses,
                peers=self._peers,
                gossip=self._gossip,
                ledger=self._ledger,
                keys=self._keys,
                bundles=self._bundles,
                scheduler=self._scheduler,
                runner=self._runner,
                logs=self._logs,
                exec=self._exec,
                ingress=self._ingress,
                events=self._events,
                pulse=self._pulse,
                started_at=trio.current_time(),
                sandbox=self._probed.rung,
                not_named=self._registration.notice,
                stop=self._end,
            )
        )

    async def _start_api(self, nursery: trio.Nursery) -> None:
        tls = api_tls(self.identity, self._listeners.addresses["http"])
        http = [trio_listener(self._listeners.http)]
        await nursery.start(lambda task_status: serve_asgi(self._api, http, tls=tls, task_status=task_status))
        await nursery.start(serve_asgi, self._api, [trio_listener(self._listeners.unix)])

    # --- beginning and end ----------------------------------------------------------------------------------

    def _tell_ready(self) -> None:
        notices = [*self._listeners.notices, *self._story]
        if self._probed.sandbox is None:
            notices.append("no sandbox works here, so this node takes no apps (install bubblewrap, or --unsandboxed)")
        if notice := self._registration.notice():
            notices.append(notice)
        self._ready.tell(self.identity.node_id, self._listeners.addresses, notices)

    def _stop_with(self, error: FreecloudError) -> None:
        """End this start, and let the process tell why."""
        self._failure = self._failure or error
        self._leaving = Leaving.FENCED if isinstance(self._failure, FencedError) else Leaving.FOR_A_MOMENT
        self._end()

    def _end(self) -> None:
        self._stop.set()
        self._registration.end()

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                if self._failure is None:
                    self._leaving = Leaving.FOR_A_MOMENT
                self._end()
