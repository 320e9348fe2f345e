"""Which links there are, which one of two to the same peer is kept, and who is told of it.

Two nodes that dial each other at the same moment make two links; both ends must keep the same one without asking.
The rule looks only at what both see alike: who dialled, which life of the peer, and whether it can have been a race.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from mesh.hello import Hello
from mesh.link import Link
from mesh.names import NodeId
from mesh.twins import same_start

RACE_S = 6.0
"""Two links made within this may have been dialled at once: a dial takes five seconds at most. An older link loses to
a newer one whoever dialled: its peer would not have dialled if it still had it."""

WATCH_QUEUE = 1024


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """The peer can be reached; it said this of itself."""

    node_id: NodeId
    hello: Hello


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The peer cannot be reached any more over what was its link.

    `by_kernel`: its machine closed the connection (FIN or RST), so its process has likely ended; otherwise it was
    silent for too long, or this node closed the link.
    """

    node_id: NodeId
    by_kernel: bool


@dataclass(frozen=True, slots=True)
class LinksLagged:
    """The watcher was too slow and missed events; it has to look at `Peers.linked` anew."""


LinkEvent = LinkOpened | LinkClosed | LinksLagged


def newer_wins(
    *, same_boot: bool, old_dialled: bool, new_dialled: bool, old_age_s: float, smaller_here: bool
) -> bool:
    """Whether a second link to a peer replaces the first.

    Args:
        same_boot: Both hellos are of the same start of the peer; if not, the old link's process is gone.
        old_dialled: This node dialled the old link.
        new_dialled: This node dialled the new link.
        old_age_s: How long ago the old link was opened.
        smaller_here: This node's id is smaller than the peer's.
    """
    if not same_boot or old_dialled == new_dialled or old_age_s > RACE_S:
        return True
    return new_dialled is smaller_here  # of two dialled at once, the one of the smaller id is kept


class LinkTable:
    """At most one link a peer to make calls on; beside them those that are running out."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._current: dict[NodeId, Link] = {}
        self._all: set[Link] = set()
        self._watchers: dict[trio.MemorySendChannel[LinkEvent], bool] = {}  # the value: it has missed events

    def get(self, node_id: NodeId) -> Link | None:
        """The link to make calls on."""
        link = self._current.get(node_id)
        return link if link is not None and link.open else None

    def linked(self) -> frozenset[NodeId]:
        return frozenset(node_id for node_id, link in self._current.items() if link.open)

    def everyone(self) -> tuple[Link, ...]:
        """Every link that carries bytes still, those that are running out included."""
        return tuple(self._all)

    def add(self, link: Link, now: float) -> bool:
        """Take in a new link; False when the one that is there is kept, and the new one has to be retired."""
        node_id = link.hello.node_id
        self._all.add(link)
        old = self._current.get(node_id)
        if old is None or not old.open:
            self._current[node_id] = link
            self._tell(LinkOpened(node_id, link.hello))
            return True
        same_boot = same_start(old.hello, link.hello)
        if not newer_wins(
            same_boot=same_boot,
            old_dialled=old.dialled,
            new_dialled=link.dialled,
            old_age_s=now - old.opened_at,
            smaller_here=self._own < node_id,
        ):
            return False
        self._current[node_id] = link
        if same_boot:
            old.retire()
        else:
            self._tell(LinkClosed(node_id, by_kernel=True))
            old.close("the peer has started anew")
        self._tell(LinkOpened(node_id, link.hello))
        return True

    def retired(self, link: Link) -> None:
        """The peer has said that it uses the link no more."""
        if self._current.get(link.hello.node_id) is link:
            del self._current[link.hello.node_id]
            self._tell(LinkClosed(link.hello.node_id, by_kernel=False))

    def remove(self, link: Link, *, by_kernel: bool) -> None:
        """The link has ended."""
        self._all.discard(link)
        if self._current.get(link.hello.node_id) is link:
            del self._current[link.hello.node_id]
            self._tell(LinkClosed(link.hello.node_id, by_kernel))

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[LinkEvent]]:
        """A channel of what changes, beginning with `LinkOpened` for every link that there is.

        It is bounded: a watcher that lags gets one `LinksLagged` in place of what it missed.
        """
        send, receive = trio.open_memory_channel[LinkEvent](WATCH_QUEUE + len(self._current))
        for node_id, link in self._current.items():
            send.send_nowait(LinkOpened(node_id, link.hello))
        self._watchers[send] = False
        try:
            yield receive
        finally:
            del self._watchers[send]
            send.close()
            receive.close()

    def _tell(self, event: LinkEvent) -> None:
        for send, lagged in self._watchers.items():
            try:
                if lagged:
                    send.send_nowait(LinksLagged())
                    self._watchers[send] = False
                send.send_nowait(event)
            except trio.WouldBlock:
                self._watchers[send] = True
            except trio.BrokenResourceError:
                continue  # its receiver closed the channel early; the watch ends with its block
