"""`freecloud recover`: going on without a lost majority, by an operator's decision alone (rule T5).

Every survivor says how far its log reaches. The one with the best log opens the next epoch: it writes, with itself as
the only voter, a configuration behind everything that it has, in a term that no replica of the old epoch can ever
reach. What any survivor holds was in that log, so nothing acknowledged that a survivor holds is lost. Messages carry
the epoch: who returns from the old one is told so, gives up its tail and learns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from consensus.boot import Doubt
from consensus.group import Group
from consensus.ledger_entries import LEDGER
from mesh.errors import ConflictError, FreecloudError, RefusedError
from mesh.names import NodeId, Role
from mesh.peers import Peers
from mesh.rpc import Caller, Lane, Method, RpcServer, Shape

ASK_S = 3.0


@LEDGER.message("recover.position-request")
@dataclass(frozen=True, slots=True)
class PositionRequest:
    """How far does your log reach?"""


@LEDGER.message("recover.position")
@dataclass(frozen=True, slots=True)
class Survivor:
    """A member's log; the best one is that of the latest term, then of the highest index."""

    node_id: NodeId
    epoch: int
    term: int  # of its last entry
    index: int
    leader: NodeId | None  # whom it hears; someone who hears one needs no recovery

    @property
    def rank(self) -> tuple[int, int, int, NodeId]:
        return (self.epoch, self.term, self.index, self.node_id)


@LEDGER.message("recover.open")
@dataclass(frozen=True, slots=True)
class OpenRequest:
    epoch: int


@LEDGER.message("recover.opened")
@dataclass(frozen=True, slots=True)
class Opened:
    epoch: int


POSITION = Method("ledger.position", PositionRequest, Survivor, LEDGER, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)
OPEN = Method("ledger.open-epoch", OpenRequest, Opened, LEDGER, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)


class Recovery:
    """Looks at the survivors and has the best one go on.

    Args:
        me: This node.
        group: The ledger's.
        peers: How survivors are asked.
        server: Where the methods are registered.
        doubt: Ends when an epoch is opened from here: that is the owner's word for this memory.
        sources: The other trusted members, reachable or not.
        wake: Has the host look at the group.
    """

    def __init__(
        self,
        me: NodeId,
        group: Group,
        peers: Peers,
        server: RpcServer,
        *,
        doubt: Doubt,
        sources: Callable[[], Sequence[NodeId]],
        wake: Callable[[], None],
    ) -> None:
        self._me = me
        self._group = group
        self._doubt = doubt
        self._peers = peers
        self._sources = sources
        self._wake = wake
        server.register(POSITION, self._serve_position)
        server.register(OPEN, self._serve_open)

    async def survivors(self, *, deadline: float) -> tuple[Survivor, ...]:
        """Everyone who answers, this node included, the best log first."""
        found = [self._position()]

        async def ask(node_id: NodeId) -> None:
            try:
                found.append(await self._peers.call(node_id, POSITION, PositionRequest(), deadline=until))
            except FreecloudError:
                return  # not a survivor, as far as can be seen from here

        until = min(deadline, trio.current_time() + ASK_S)
        async with trio.open_nursery() as nursery:
            for node_id in self._sources():
                nursery.start_soon(ask, node_id)
        return tuple(sorted(found, key=lambda survivor: survivor.rank, reverse=True))

    async def open_epoch(self, epoch: int, *, deadline: float) -> NodeId:
        """Have the best survivor open this epoch; returns which one.

        Raises:
            RefusedError: A survivor hears a leader: nothing is lost.
            ConflictError: The survivors are in another epoch than the one before.
        """
        survivors = await self.survivors(deadline=deadline)
        best = survivors[0]
        hearing = next((survivor for survivor in survivors if survivor.leader is not None), None)
        if hearing is not None:
            raise RefusedError(
                "there is a leader, so there is nothing to recover",
                why=f"{hearing.node_id} hears {hearing.leader}",
                hint="look at `freecloud status` there",
                code="recover.not-needed",
            )
        if best.node_id == self._me:
            self._open(epoch)
        else:
            await self._peers.call(best.node_id, OPEN, OpenRequest(epoch), deadline=deadline)
        return best.node_id

    def _position(self) -> Survivor:
        status = self._group.status()
        term, index = self._group.last_entry()
        return Survivor(self._me, status.epoch, term, index, status.leader)

    def _open(self, epoch: int) -> None:
        refusal = self._group.recover(trio.current_time(), epoch)
        if refusal is not None:
            raise ConflictError("the mesh cannot be recovered here now", why=refusal.reason)
        self._doubt.doubted = False
        self._wake()

    async def _serve_position(self, caller: Caller, request: PositionRequest) -> Survivor:
        return self._position()

    async def _serve_open(self, caller: Caller, request: OpenRequest) -> Opened:
        self._open(request.epoch)
        return Opened(request.epoch)
