"""The registration of one start: asked for until there is a quorum, waited for before the node is called ready."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import trio

from consensus.boot import Doubt, next_start, note_registered
from consensus.disk import NoSpace, RealDisk
from consensus.ledger import Ledger
from consensus.log_store import LogStore
from consensus.records import Member
from daemon.home import Home, place_of
from daemon.pulse import Pulse
from daemon.standing import Standing, announce_level, register
from mesh.errors import FreecloudError
from mesh.names import NodeId

NO_QUORUM_S = 3.0
"""A start that has found no quorum by then serves without one, and says so."""

REGISTER_S = 10.0
"""With a quorum in reach; being registered takes a second or two."""

MEMORY_GONE = "the log of this home is gone: everything is learnt anew from the others, and until then it has no vote"


class Registration:
    """What is known of this start, and what becomes of it.

    Args:
        home: Its files count starts and tell copies apart. Blocking: make this in a worker thread.
        node_id: This node.
        log: Opened.
    """

    def __init__(self, home: Home, node_id: NodeId, log: LogStore) -> None:
        self._home = home
        self._me = node_id
        self._place = place_of(home)
        self._start = next_start(RealDisk(home.root), log.store_id, os.urandom, place=self._place)
        self._new_store = log.created
        self.boot = self._start.boot
        self.doubt = Doubt(node_id, doubted=self._start.copied)
        self.standing = Standing(self.boot)
        self._decided = trio.Event()  # this start counts, or it ends
        self.is_unsure = self._start.copied
        """Whether another start of this id may live beside this one: in a copied home, or with a memory that is gone.

        Then this one keeps still: it claims nothing in gossip and runs no app before the ledger has named it (T3).
        """

    @property
    def named(self) -> trio.Event:
        """Set once the ledger, as this node knows it, names this start."""
        return self.standing.named

    def hear(self, members: tuple[Member, ...]) -> bool:
        """Take what the home, or the welcome of a joiner, says of the members: a welcome names this very start.

        Returns:
            Whether this home's memory is gone: the node is known, and its log is new.
        """
        mine = next((member for member in members if member.node_id == self._me), None)
        if mine is not None and mine.boot == self.boot:
            self.named.set()
            self._decided.set()
        is_gone = self._new_store and mine is not None and mine.boot != self.boot
        self.is_unsure = self._start.copied or is_gone
        return is_gone

    async def run(self, ledger: Ledger, pulse: Pulse, stop_with: Callable[[FreecloudError], None]) -> None:
        """Have the ledger name this start; then let the next one follow on it."""
        try:
            if not self.named.is_set():
                await register(
                    ledger, self._me, self._start, new_store=self._new_store, doubt=self.doubt, pulse=pulse
                )
            await announce_level(ledger, self._me, pulse)
        except FreecloudError as error:
            stop_with(error)
            return
        await self.named.wait()
        self._decided.set()
        self.doubt.doubted = False
        disk = RealDisk(self._home.root)
        with suppress(NoSpace):  # then the next start follows on an earlier one: the thread is longer, and as good
            await trio.to_thread.run_sync(lambda: note_registered(disk, self.boot, place=self._place))

    async def wait(self, ledger: Ledger) -> None:
        """Until this start is named or ends; not for ever, for there may be no quorum."""
        with trio.move_on_after(NO_QUORUM_S):
            await self._decided.wait()
        quorum = ledger.quorum()
        if len(quorum.reached) - self.doubt.doubted >= quorum.needed:
            with trio.move_on_after(REGISTER_S):
                await self._decided.wait()

    def end(self) -> None:
        """This start ends: nobody has to wait any more."""
        self._decided.set()

    def notice(self) -> str:
        """What is said of a start that serves before the ledger could name it; "" for one that is named."""
        if self.named.is_set():
            return ""
        if self.doubt.doubted:
            return (
                "this home is a copy, or was moved: it gives no vote and runs nothing before the mesh has taken it "
                "back (if all others are lost: `freecloud recover`)"
            )
        return "no quorum yet: this start is not registered, and goes on trying"
