"""One machine of the simulated world: clocks, a platter, and at most one process, life after life."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from tests.sim.clock import Agenda, NodeClock
from tests.sim.disk import DiskCounts, DiskFaults, SimDisk
from tests.sim.platter import Platter

BACKLOG_MAX = 20_000
"""What a paused process's kernel holds for it; more is dropped, as full socket buffers do."""


class Process(Protocol):
    """One life of a node, as the world drives it. Any call may raise `ProcessDied` or an error that ends the life."""

    life: str

    def receive(self, source: str, message: object) -> None:
        """A message arrived."""

    def link_closed(self, peer: str) -> None:
        """The kernel says that the link with this peer is over."""

    def wake(self) -> None:
        """Time has passed; something may be due."""

    def next_deadline(self) -> float:
        """When to wake it, on its own monotonic clock."""

    def start_mark(self) -> object:
        """Which start of which memory this is; equal for the same one alone."""

    def starts_known(self) -> Mapping[str, object]:
        """The newest start of each node, by name, as far as its copy of what is agreed tells."""

    def leads(self) -> bool:
        """Whether it takes itself for the leader."""

    def configurations(self) -> tuple[frozenset[str], ...]:
        """Each set of voters of which this node thinks that a majority is needed."""

    def epoch(self) -> int:
        """The epoch of the mesh that it lives in (rule T5)."""


@dataclass(slots=True)
class Host:
    """A machine; what is in `platter` outlives its processes."""

    name: str
    agenda: Agenda
    clock: NodeClock
    rng: random.Random
    platter: Platter = field(default_factory=Platter)
    faults: DiskFaults = field(default_factory=DiskFaults)
    counts: DiskCounts = field(default_factory=DiskCounts)
    process: Process | None = None
    lives: int = 0
    frozen: int = 0  # how many faults hold the process still
    stalled_until: float = 0.0  # a disk that hangs, in true time
    backlog: deque[Callable[[], None]] = field(default_factory=lambda: deque(maxlen=BACKLOG_MAX))
    wake_at: float = inf
    starting: int = 0  # number of the newest wish to start it; older ones are void
    quorum_names: tuple[frozenset[str], ...] = ()  # of the last process, as it last said
    epoch: int = 1  # likewise
    gone: bool = False  # nobody starts it until it is brought back
    is_copy: bool = False  # runs from a copy of the home of the host of this name

    def new_disk(self, folder: str = "") -> SimDisk:
        """What a starting process opens: one folder of its home, "" or ending with a slash."""
        return SimDisk(self.platter, self.faults, self.rng, self.counts, folder)

    def remember(self) -> None:
        """Note what the process says about configurations, for the time when it is dead."""
        if self.process is not None:
            self.quorum_names = self.process.configurations()
            self.epoch = self.process.epoch()
