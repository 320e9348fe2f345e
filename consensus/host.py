"""The trio shell of all groups of a node: one loop, one writer, one fsync a batch.

It wakes at the groups' deadlines and when something was fed to one, carries out what their outputs list, and decides
nothing. Three tasks: the loop; the writer, which gathers the writes of all groups that are ready while the disk is
busy with the last batch; the saver of snapshots, which are long and must not hold up a vote.

A failed write or sync raises `DiskError` out of `run`: the process ends and reads its disk anew (fault D2). A full disk
does not: proposals are refused, leadership is handed over, the write is tried again (fault D7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import trio

from consensus.disk import NoSpace
from consensus.group import Group
from consensus.group_effects import GroupOutput, SaveSnapshot
from consensus.log_records import GroupWrite
from consensus.log_store import LogStatistics, LogStore
from consensus.pull import PULL, STALE_S, Piece, PieceRequest, Pull, PullAnswer, PullRequest
from consensus.raft.messages import RAFT, Envelope
from consensus.snapshot_store import SnapshotStore
from mesh.errors import DiskError, FreecloudError, MissingError
from mesh.names import NodeId, Role
from mesh.peers import LinkClosed, Peers
from mesh.rpc import Caller, Lane, Method, RpcServer, Shape

MESSAGE: Method[Envelope, None] = Method(
    "consensus.message", Envelope, None, RAFT, Role.TRUSTED, Lane.CONSENSUS, Shape.NOTICE
)
PULL_LOG = Method("ledger.pull", PullRequest, PullAnswer, PULL, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)
PULL_PIECE = Method("ledger.piece", PieceRequest, Piece, PULL, Role.TRUSTED, Lane.BULK, Shape.UNARY)

FULL_RETRY_S = 1.0
"""Nothing signals that a disk has room again."""

LAG_S_MAX = 0.5
"""A loop that wakes so late would miss heartbeats: it gives up leadership (fault P3)."""

ROUND_TRIP_EVERY_S = 2.0
DISK_FULL = "the leader's disk is full; with some space freed there it goes on by itself"


@dataclass(frozen=True, slots=True)
class HostStatistics:
    log: LogStatistics
    batches: int
    writes: int
    messages_unsent: int
    messages_forged: int
    pulls_served: int
    lag_ms_max: int
    read_only: bool


class Host:
    """Runs groups over one log.

    Args:
        store: The log; the host's own from now on.
        snapshots: Of the groups' state machines.
        peers: How messages travel.
        server: Where the methods of this module are registered.
        sources: The trusted peers that the log could be copied from now.
    """

    def __init__(
        self,
        store: LogStore,
        snapshots: SnapshotStore,
        peers: Peers,
        server: RpcServer,
        *,
        sources: Callable[[], Sequence[NodeId]],
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._peers = peers
        self._sources = sources
        self._groups: dict[int, Group] = {}
        self._listeners: dict[int, Callable[[GroupOutput], None]] = {}
        self._applied: dict[int, int] = {}
        self._woken = trio.Event()
        self._wakes_at = -inf  # when the loop looks again by itself; -inf while it works, or was woken
        self._pulls: trio.Nursery | None = None
        self._moved = trio.Event()  # something was applied: open questions are looked at again
        self._writes: dict[int, GroupWrite] = {}
        self._compactions: dict[int, int] = {}
        self._saves: list[tuple[int, SaveSnapshot]] = []
        self._write_wanted = trio.Event()
        self._save_wanted = trio.Event()
        self._read_only = False
        self._measured_at = 0.0
        self._batches = self._written = self._unsent = self._forged = self._served = 0
        self._lag_s_max = 0.0
        server.register(MESSAGE, self._take_message)
        server.register(PULL_LOG, self._serve_pull)
        server.register(PULL_PIECE, self._serve_piece)

    def add(self, number: int, group: Group, listener: Callable[[GroupOutput], None]) -> None:
        """Run this group; `listener` is told each of its outputs after the host has taken its own parts of it."""
        assert number not in self._groups, f"group {number} runs already"
        self._groups[number] = group
        self._listeners[number] = listener
        self._applied[number] = group.machine.applied

    def wake(self) -> None:
        """Something was fed to a group: look at it soon."""
        self._wakes_at = -inf
        self._woken.set()

    def refresh_sources(self) -> None:
        """Members or links changed: tell the groups whom they can copy from."""
        now = trio.current_time()
        sources = self._sources()
        for group in self._groups.values():
            group.set_sources(now, sources)
        self.wake()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the groups until cancelled.

        Raises:
            DiskError: A durable write failed; the process has to end.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._pulls = nursery
                nursery.start_soon(self._write_batches)
                nursery.start_soon(self._save_snapshots)
                nursery.start_soon(self._follow_links)
                self.refresh_sources()
                task_status.started()
                await self._drive()
        finally:
            self._pulls = None
            self._store.close()

    def statistics(self) -> HostStatistics:
        return HostStatistics(
            self._store.statistics(),
            self._batches,
            self._written,
            self._unsent,
            self._forged,
            self._served,
            int(self._lag_s_max * 1000),
            self._read_only,
        )

    # --- the loop ---------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while True:
            due = min(group.next_deadline() for group in self._groups.values())
            slept_at = trio.current_time()
            self._wakes_at = due
            with trio.move_on_at(due):
                await self._woken.wait()
            self._wakes_at = -inf
            self._woken = trio.Event()
            now = trio.current_time()
            self._note_lag(now, now - max(due, slept_at))
            for group in self._groups.values():
                if group.next_deadline() <= now:
                    group.tick(now)
            for number, group in self._groups.items():
                self._perform(number, group.take_output())

    def _look_now(self, number: int, group: Group) -> None:
        """What the loop would do for this group, without waking it: at rest, a heartbeat is most of a node's work.

        A loop that works, or is to look anyway, looks once at all that came: that is where batches come from.
        """
        if self._wakes_at == -inf:
            return self.wake()
        self._perform(number, group.take_output())
        if group.next_deadline() < self._wakes_at:
            self.wake()
        return None

    def _note_lag(self, now: float, lag_s: float) -> None:
        self._lag_s_max = max(self._lag_s_max, lag_s)
        if lag_s > LAG_S_MAX:
            for group in self._groups.values():
                group.step_down(now, "this node's loop stood still")
        if now - self._measured_at >= ROUND_TRIP_EVERY_S:
            self._measured_at = now
            for group in self._groups.values():
                trips = [self._peers.rtt_s(peer) for peer in group.configuration.all_voters()]
                group.set_round_trip(max((trip for trip in trips if trip < LAG_S_MAX), default=0.0))

    def _perform(self, number: int, output: GroupOutput) -> None:
        for outgoing in output.send:
            self._unsent += not self._peers.notify(outgoing.to, MESSAGE, outgoing.envelope)
        if output.write is not None:
            self._writes[number] = output.write
            self._write_wanted.set()
        if output.compact_to:
            self._compactions[number] = output.compact_to
            self._write_wanted.set()
        if output.save is not None:
            self._saves.append((number, output.save))
            self._save_wanted.set()
        if output.pull is not None and self._pulls is not None:
            self._pulls.start_soon(self._pull, number, output.pull)
        if output.applied_to > self._applied[number]:
            self._applied[number] = output.applied_to
            self._moved.set()
            self._moved = trio.Event()
        self._listeners[number](output)

    # --- the disk ---------------------------------------------------------------------------------------------

    async def _write_batches(self) -> None:
        """Write whatever is wanted, all groups together, as soon as the last batch is done."""
        while True:
            with trio.move_on_after(FULL_RETRY_S if self._read_only else inf):
                await self._write_wanted.wait()
            self._write_wanted = trio.Event()
            writes, self._writes = self._writes, {}
            compactions, self._compactions = self._compactions, {}
            if writes:
                await self._write(list(writes.values()))
                self._batches += 1
            self._written += len(writes)
            now = trio.current_time()
            for number in writes:
                self._groups[number].written(now)
            self.wake()
            if compactions:
                await self._compact(compactions)
            await self._mind_space()

    async def _write(self, batch: list[GroupWrite]) -> None:
        """One fsync; with the disk full, again and again, while nothing that rests on it is said."""
        while True:
            try:
                await trio.to_thread.run_sync(self._store.write, batch)
            except NoSpace:
                self._set_read_only(True)
                await trio.sleep(FULL_RETRY_S)
            except DiskError:
                for group in self._groups.values():
                    group.disk_failed(trio.current_time())
                raise
            else:
                return

    async def _compact(self, compactions: dict[int, int]) -> None:
        for number, index in compactions.items():
            try:
                await trio.to_thread.run_sync(self._store.compact, number, index)
            except NoSpace:
                return  # the next compaction includes this one

    async def _mind_space(self) -> None:
        """Hold proposals back while the reserve is in use."""
        if self._store.low_space and not await trio.to_thread.run_sync(self._store.restore_space):
            self._set_read_only(True)
        else:
            self._set_read_only(False)

    def _set_read_only(self, read_only: bool) -> None:
        if read_only or self._read_only:
            self._read_only = read_only
            for group in self._groups.values():
                group.set_read_only(trio.current_time(), DISK_FULL if read_only else "")
            self.wake()

    async def _save_snapshots(self) -> None:
        while True:
            await self._save_wanted.wait()
            self._save_wanted = trio.Event()
            saves, self._saves = self._saves, []
            for number, save in saves:
                group = self._groups[number]
                try:
                    await trio.to_thread.run_sync(self._snapshots.save, number, save.meta, save.payload)
                except NoSpace:
                    group.snapshot_not_saved(trio.current_time(), save.meta)
                else:
                    group.snapshot_saved(trio.current_time(), save.meta)
                self.wake()

    # --- the network ------------------------------------------------------------------------------------------

    def _take_message(self, caller: Caller, envelope: Envelope) -> None:
        group = self._groups.get(envelope.group)
        if envelope.sender.node_id != caller.node_id or group is None:
            self._forged += 1
            return
        group.receive(trio.current_time(), envelope)
        self._look_now(envelope.group, group)

    async def _follow_links(self) -> None:
        with self._peers.watch_links() as links:
            async for event in links:
                if isinstance(event, LinkClosed) and event.by_kernel:
                    for group in self._groups.values():
                        group.peer_link_closed(trio.current_time(), event.node_id)
                self.refresh_sources()

    async def _pull(self, number: int, pull: Pull) -> None:
        """Ask a peer for what it has."""
        group = self._groups[number]
        deadline = trio.current_time() + pull.timeout_s
        try:
            answer: PullAnswer | Piece
            if isinstance(pull.request, PullRequest):
                answer = await self._peers.call(pull.to, PULL_LOG, pull.request, deadline=deadline)
            else:
                answer = await self._peers.call(pull.to, PULL_PIECE, pull.request, deadline=deadline)
        except FreecloudError as error:
            group.pull_failed(trio.current_time(), pull.number, error.stable_code)
        else:
            group.pull_answered(trio.current_time(), pull.number, answer)
        self.wake()

    async def _serve_pull(self, caller: Caller, request: PullRequest) -> PullAnswer:
        """Answer with what follows; wait for it as long as the asker likes, unless this copy is out of touch itself."""
        group = self._group(request.group)
        self._served += 1
        until = min(caller.deadline, trio.current_time() + request.wait_ms / 1000)
        while True:
            moved = self._moved
            answer = group.serve_pull(trio.current_time(), request)
            has_news = answer.entries or answer.use_snapshot
            if has_news or answer.heard_ms_ago > STALE_S * 1000 or trio.current_time() >= until:
                return answer
            with trio.move_on_at(until):
                await moved.wait()

    async def _serve_piece(self, caller: Caller, request: PieceRequest) -> Piece:
        piece = self._group(request.group).serve_piece(trio.current_time(), request)
        self.wake()
        return piece

    def _group(self, number: int) -> Group:
        group = self._groups.get(number)
        if group is None:
            raise MissingError(f"this node has no part in group {number}")
        return group
