"""The simulated network: directed paths that lose, delay, repeat, reorder, clog and are cut.

A message is an object that is handed over as it is (the machines' messages are frozen), or not at all. Paths have no
order: links of the product have, but the cores claim to need none (fault N5), and the claim is what is tested.

Whether a link's end is *told* that it is over is the kernel's doing: a killed process's peers get a FIN or RST where
the path lets it through, those of a host without power do not. `close_links` says the former.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.sim.clock import Agenda

Deliver = Callable[[str, str, object], None]
"""Called as (source, target, message) when a message arrives."""


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """One seed's network (ranges: the faults page, 1a)."""

    loss: float  # share of messages lost
    replay: float  # share of messages that come a second time, later
    delay_min_s: float
    delay_mean_s: float  # of the exponential part on top of the minimum
    clog: float  # chance that a message finds its path clogged …
    clog_s_max: float  # … for up to this long


CALM = NetworkOptions(0.0, 0.0, 0.001, 0.001, 0.0, 0.0)
"""What is left of the network's faults in the liveness phase."""


@dataclass(slots=True)
class NetworkCounts:
    """How often each thing happened to a message."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    cut: int = 0
    repeated: int = 0
    clogged: int = 0
    resets: int = 0


class Network:
    """All paths between all nodes.

    Args:
        deliver: Takes each message that arrives.
        closed: Called as (node, peer) when the node's kernel says that its link with the peer is over.
    """

    def __init__(
        self,
        agenda: Agenda,
        rng: random.Random,
        options: NetworkOptions,
        deliver: Deliver,
        closed: Callable[[str, str], None],
    ) -> None:
        self.options = options
        self.counts = NetworkCounts()
        self._agenda = agenda
        self._rng = rng
        self._deliver = deliver
        self._closed = closed
        self._cuts: dict[tuple[str, str], int] = {}
        self._clogged_until: dict[tuple[str, str], float] = {}
        self._slow: dict[str, float] = {}
        self._core: frozenset[str] | None = None

    def send(self, source: str, target: str, message: object) -> None:
        """Put a message on its path; it arrives later, once, twice or never."""
        self.counts.sent += 1
        options = self._options_of(source, target)
        if options.loss and self._rng.random() < options.loss:
            self.counts.lost += 1
            return
        self._launch(source, target, message, options)
        if options.replay and self._rng.random() < options.replay:
            self.counts.repeated += 1
            self._launch(source, target, message, options)

    def cut(self, source: str, target: str) -> None:
        """Nothing passes from source to target any more; cuts of several faults add up."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        """Take one cut of this path away."""
        left = self._cuts[source, target] - 1
        if left:
            self._cuts[source, target] = left
        else:
            del self._cuts[source, target]

    def is_open(self, source: str, target: str) -> bool:
        """True if a message sent now would not meet a cut."""
        if self._core is not None:
            return source in self._core and target in self._core
        return (source, target) not in self._cuts

    def slow_down(self, node: str, delay_s: float) -> None:
        """Every message to or from this node takes so much longer; 0 ends it."""
        if delay_s:
            self._slow[node] = delay_s
        else:
            self._slow.pop(node, None)

    def clog(self, source: str, target: str, seconds: float) -> None:
        """Hold whatever is sent on this path from now on until then."""
        until = max(self._clogged_until.get((source, target), 0.0), self._agenda.now + seconds)
        self._clogged_until[source, target] = until

    def close_links(self, node: str, peers: Iterable[str]) -> None:
        """The node's process ended: its kernel tells the peer of each link, where the path lets it."""
        for peer in peers:
            if peer != node and self.is_open(node, peer):
                self._agenda.after(self._delay(CALM), self._closed, peer, node)

    def reset(self, one: str, other: str) -> None:
        """Both kernels drop the link between two live nodes."""
        self.counts.resets += 1
        self._agenda.after(self._delay(CALM), self._closed, one, other)
        self._agenda.after(self._delay(CALM), self._closed, other, one)

    def calm(self, core: frozenset[str]) -> None:
        """The liveness phase: no fault between the nodes of the core, nothing at all to and from the others."""
        self._core = core
        self._clogged_until.clear()
        for node in sorted(core):
            self._slow.pop(node, None)

    def _options_of(self, source: str, target: str) -> NetworkOptions:
        if self._core is not None and source in self._core and target in self._core:
            return CALM
        return self.options

    def _launch(self, source: str, target: str, message: object, options: NetworkOptions) -> None:
        delay = self._delay(options) + self._slow.get(source, 0.0) + self._slow.get(target, 0.0)
        if options.clog and self._rng.random() < options.clog:
            self.counts.clogged += 1
            self.clog(source, target, self._rng.random() * options.clog_s_max)
        if self._clogged_until:
            delay += max(0.0, self._clogged_until.get((source, target), 0.0) - self._agenda.now)
        self._agenda.after(delay, self._arrive, source, target, message)

    def _delay(self, options: NetworkOptions) -> float:
        return options.delay_min_s + self._rng.expovariate(1.0) * options.delay_mean_s

    def _arrive(self, source: str, target: str, message: object) -> None:
        if not self.is_open(source, target):
            self.counts.cut += 1
            return
        self.counts.delivered += 1
        self._deliver(source, target, message)
