"""Sources between nodes: fetched by whoever needs one, and handed to others before a release is proposed (rule A1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import trio

from mesh.errors import DamagedError, DeadlineError, FreecloudError, UnavailableError
from mesh.lanes import Lane
from mesh.names import NodeId, Role
from mesh.peers import Peers
from mesh.rpc import Caller, Method, RpcServer, Shape
from mesh.versioned import Codec, Limits
from scheduler.bundles import SHORT_HEX, BundleStore

BUNDLES = Codec(Limits(total_bytes_max=128 * 1024, text_bytes_max=128, bytes_max=96 * 1024, items_max=16))

FETCHES_MAX = 4
"""At once for other nodes: a bundle may have 256 MiB, and the lane is shared with logs and tunnels."""


@BUNDLES.message("bundle.fetch")
@dataclass(frozen=True, slots=True)
class FetchBundle:
    bundle: str


@BUNDLES.message("bundle.piece")
@dataclass(frozen=True, slots=True)
class BundlePiece:
    content: bytes


@BUNDLES.message("bundle.keep")
@dataclass(frozen=True, slots=True)
class KeepBundle:
    """Take a copy of this from me, and answer when it is durable."""

    bundle: str


@BUNDLES.message("bundle.kept")
@dataclass(frozen=True, slots=True)
class BundleKept:
    bundle: str


FETCH = Method("bundle.fetch", FetchBundle, BundlePiece, BUNDLES, Role.TRUSTED, Lane.BULK, Shape.STREAM)
KEEP = Method("bundle.keep", KeepBundle, BundleKept, BUNDLES, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)


class BundleExchange:
    """This node's bundles for others, and others' for this node.

    Args:
        store: This node's own.
        peers: The links.
        server: Where the methods are registered.
        holders: Who says that it has a bundle, best first; asked when one is needed.
    """

    def __init__(
        self, store: BundleStore, peers: Peers, server: RpcServer, holders: Callable[[str], Sequence[NodeId]]
    ) -> None:
        self._store = store
        self._peers = peers
        self._holders = holders
        self._fetching: dict[str, trio.Lock] = {}
        self._serving = trio.CapacityLimiter(FETCHES_MAX)
        server.register(FETCH, self._serve_fetch)
        server.register(KEEP, self._serve_keep)

    async def unpack(self, bundle: str, folder: Path, *, deadline: float) -> None:
        """The source of this name into `folder`, which is made; fetched first if it is not here.

        Raises:
            UnavailableError: No holder could give it in time.
            UsageError, ExhaustedError: The archive may not be unpacked.
        """
        await self.ensure(bundle, self._holders(bundle), deadline=deadline)
        try:
            await self._store.unpack(bundle, folder)
        except DamagedError:  # on this disk: the store offers it no more, and another's copy may be whole
            await self.ensure(bundle, self._holders(bundle), deadline=deadline)
            await self._store.unpack(bundle, folder)

    async def ensure(self, bundle: str, holders: Iterable[NodeId], *, deadline: float) -> None:
        """Have the bundle here, durably; the holders are tried in turn."""
        lock = self._fetching.setdefault(bundle, trio.Lock())
        try:
            async with lock:
                if self._store.has(bundle):
                    return
                reasons = []
                for holder in holders:
                    try:
                        await self._fetch(bundle, holder, deadline)
                        return
                    except FreecloudError as error:
                        reasons.append(str(error))
                raise UnavailableError(
                    f"no node could give the source {bundle[:SHORT_HEX]}",
                    why="; ".join(reasons) or "no node says that it has it",
                )
        finally:
            if not lock.statistics().tasks_waiting:
                self._fetching.pop(bundle, None)

    async def push(
        self, bundle: str, candidates: Sequence[NodeId], count: int, *, deadline: float
    ) -> tuple[NodeId, ...]:
        """Have up to `count` of the candidates keep a copy; those who did, whatever the others said."""
        kept: list[NodeId] = []
        for candidate in candidates:
            if len(kept) >= count or trio.current_time() >= deadline:
                break
            try:
                await self._peers.call(candidate, KEEP, KeepBundle(bundle), deadline=deadline)
                kept.append(candidate)
            except FreecloudError:
                continue  # the next candidate; a release that finds nobody says so as a debt
        return tuple(kept)

    async def collect(self, needed: Iterable[str]) -> int:
        """Drop the bundles that nobody needs any more, but for those that came in a moment ago; returns how many."""
        return await self._store.keep_only(needed)

    async def _fetch(self, bundle: str, holder: NodeId, deadline: float) -> None:
        with trio.move_on_at(deadline) as scope:
            async with self._peers.stream(holder, FETCH, FetchBundle(bundle), deadline=deadline) as pieces:
                await self._store.put(_contents(pieces), expected=bundle)
        if scope.cancelled_caught:
            raise DeadlineError(f"the source {bundle[:SHORT_HEX]} did not come in time")

    async def _serve_fetch(self, caller: Caller, request: FetchBundle) -> AsyncIterator[BundlePiece]:
        async with self._serving, aclosing(self._store.read(request.bundle)) as pieces:
            async for piece in pieces:
                yield BundlePiece(piece)

    async def _serve_keep(self, caller: Caller, request: KeepBundle) -> BundleKept:
        await self.ensure(request.bundle, [caller.node_id], deadline=caller.deadline)
        return BundleKept(request.bundle)


async def _contents(pieces: AsyncIterator[BundlePiece]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece.content
