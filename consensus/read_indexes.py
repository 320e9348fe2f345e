"""Linearizable reads from any node: up to where a copy must be applied to be as new as any finished write (rule C5)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from consensus.group import Group
from consensus.group_effects import GroupOutput, Mode
from consensus.ledger_entries import LEDGER
from consensus.raft.outputs import ReadReady
from consensus.waiting import Waiting
from mesh.errors import FreecloudError, NoQuorumError
from mesh.mux_events import ANSWERING_S
from mesh.names import NodeId, Role
from mesh.peers import Peers
from mesh.rpc import Caller, Lane, Method, RpcServer, Shape


@LEDGER.message("read.request")
@dataclass(frozen=True, slots=True)
class ReadIndexRequest:
    """Up to which index must a copy have applied, to be as new as any write that is finished by now?"""


@LEDGER.message("read.answer")
@dataclass(frozen=True, slots=True)
class ReadIndexAnswer:
    index: int


READ_INDEX = Method(
    "ledger.read-index", ReadIndexRequest, ReadIndexAnswer, LEDGER, Role.TRUSTED, Lane.CONTROL, Shape.UNARY
)


class ReadIndexes:
    """Asks the leader, by Raft's own means where this node is a replica, else through one that is.

    Args:
        group: The ledger's.
        peers: How others are asked.
        server: Where the method is registered.
        sources: Whom an observer asks while it knows no leader.
        wake: Has the host look at the group.
    """

    def __init__(
        self,
        group: Group,
        peers: Peers,
        server: RpcServer,
        *,
        sources: Callable[[], Sequence[NodeId]],
        wake: Callable[[], None],
    ) -> None:
        self._group = group
        self._peers = peers
        self._sources = sources
        self._wake = wake
        self._tokens = itertools.count(1)
        self._reads: dict[int, Waiting[int | None]] = {}
        server.register(READ_INDEX, self._serve)

    async def ask(self, deadline: float) -> int | None:
        """The index; None if nobody can say now."""
        if self._group.mode is Mode.REPLICA and not self._group.is_hearsay:
            return await self._ask_raft()
        for target in self._whom_to_ask():
            try:
                answer = await self._peers.call(target, READ_INDEX, ReadIndexRequest(), deadline=deadline)
            except FreecloudError:
                continue  # it does not know either; the next one may
            return answer.index
        return None

    def _whom_to_ask(self) -> Sequence[NodeId]:
        """The leader; where nothing passes between it and this node, those whose Raft may know (fault N3)."""
        leader = self._group.leader
        others = sorted(self._sources(), key=lambda each: self._peers.silent_s(each) >= ANSWERING_S)
        others = [each for each in others if each != leader]
        return others if leader is None or self._group.is_hearsay else [leader, *others]

    def take_output(self, output: GroupOutput) -> None:
        """Raft has answered some reads."""
        for read in output.reads:
            if read.token in self._reads:
                self._reads[read.token].give(read.index if isinstance(read, ReadReady) else None)

    async def _ask_raft(self) -> int | None:
        token = next(self._tokens)
        waiting = self._reads[token] = Waiting[int | None]()
        try:
            self._group.read(trio.current_time(), token)
            self._wake()
            return await waiting.wait()
        finally:
            del self._reads[token]

    async def _serve(self, caller: Caller, request: ReadIndexRequest) -> ReadIndexAnswer:
        index = None
        with trio.move_on_at(caller.deadline):
            index = await self._ask_raft() if self._group.mode is Mode.REPLICA else None
        if index is None:
            raise NoQuorumError("this node knows no leader that could prove to lead")
        return ReadIndexAnswer(index)
