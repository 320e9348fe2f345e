"""The world: hosts, their network and the one agenda; a seed's options in, a trace out.

The world carries messages and time to processes and ends them; what a process *is* it does not know (node.py does),
so that the world itself is tested with a toy. Only this file calls into a process: after each call it asks for the
next deadline, and any error that ends a process becomes a death and a later restart, as by systemd.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from math import inf

from mesh.errors import DamagedError, DiskError, FencedError, FreecloudError
from tests.sim.checkers.violation import Violation
from tests.sim.clock import Agenda, NodeClock
from tests.sim.disk import ProcessDied
from tests.sim.host import Host, Process
from tests.sim.network import Network
from tests.sim.options import Options
from tests.sim.platter import Platter
from tests.sim.trace import Trace

Start = Callable[["World", Host], Process]
"""Makes the process of a host's next life; its errors count as that life's end."""

COPIED_LIVES = 1000
"""A copy counts its lives from here on, so that no two lives of one name are called the same."""

RESTART_S = 0.5
"""How long a supervisor waits before it starts a process that ended by itself."""


class World:
    """Everything there is in one run."""

    def __init__(self, options: Options, names: Iterable[str], start: Start) -> None:
        self.options = options
        self.agenda = Agenda()
        self.trace = Trace()
        self.network = Network(self.agenda, self.random("network"), options.network, self._arrive, self._link_closed)
        self.hosts: dict[str, Host] = {}
        self.copies: dict[str, Host] = {}  # second machines that run from a copy of a host's home
        self.suspects: set[str] = set()  # hosts whose memory may be less than what they once promised
        self.is_lost = False  # with the only disk that held what was agreed on last; no bound can be asked any more
        self.operators = 0  # people at work on something that has to be finished before the calm
        self.doubtful: Callable[[], frozenset[str]] = lambda: frozenset(self.suspects)  # those not made whole again
        self.calm_core: frozenset[str] = frozenset()
        self.deaths: dict[str, int] = {}
        self.tolerant = False  # an assertion in a core ends its process alone: so that a checker sees what follows
        self._start = start
        self._route = self.random("route")
        for name in names:
            self.add_host(name)

    def random(self, purpose: str) -> random.Random:
        """Chance for one purpose, independent of every other; strings seed by SHA-512, never by `hash`."""
        return random.Random(f"{self.options.seed}:{purpose}")

    def add_host(self, name: str) -> Host:
        """A new machine, without a process yet."""
        rng = self.random(f"host:{name}")
        drift = self.options.drift
        clock = NodeClock(self.agenda, rate=1.0 + rng.uniform(-drift, drift), started=rng.uniform(0.0, 1e6))
        host = self.hosts[name] = Host(name, self.agenda, clock, rng)
        return host

    def run_copy(self, host: Host, platter: Platter) -> None:
        """A second machine runs from this copy of the host's home, under the same identity and address."""
        rng = self.random(f"copy:{host.name}:{host.lives}")
        clock = NodeClock(self.agenda, started=rng.uniform(0.0, 1e6))
        copy = Host(host.name, self.agenda, clock, rng, platter, lives=COPIED_LIVES + host.lives, is_copy=True)
        self.copies[host.name] = copy
        self.start(copy)

    # --- lives ------------------------------------------------------------------------------------------------

    def start(self, host: Host) -> bool:
        """Begin the next life, if the host has none; True if it began."""
        if host.process is not None or host.gone:
            return False
        host.lives += 1
        host.frozen = 0
        host.backlog.clear()
        host.starting += 1
        self.note(host.name, "up", f"life {host.lives}")
        try:
            host.process = self._start(self, host)
        except (ProcessDied, FreecloudError) as error:
            self._ended(host, error)
            return False
        except AssertionError as error:
            self._failed(host, error)
            return False
        self._call(host, host.process.wake)
        return host.process is not None

    def start_later(self, host: Host, delay: float) -> None:
        """Start it then, unless another wish comes first."""
        host.starting += 1
        self.agenda.after(delay, self._start_if, host, host.starting)

    def kill(self, host: Host, why: str) -> None:
        """End the process at once; its kernel lives and closes its sockets."""
        if host.process is None:
            return
        self._bury(host, why)
        self.network.close_links(host.name, list(self.hosts))

    def power_off(self, host: Host, why: str, *, after_lies: bool = False) -> int:
        """End the process and lose what was not synced; nobody is told. Returns how many writes were hurt.

        Args:
            after_lies: What a lying disk promised is lost as well. Else such a disk is spared: only the fault that
                made it lie knows when the others could notice.
        """
        if host.process is not None:
            self._bury(host, why)
        if host.faults.lying and not after_lies:
            host.platter.sync_all()
        hurt = host.platter.power_off(host.rng, self.options.damage)
        self.note(host.name, "power", f"{hurt} writes hurt")
        return hurt

    def freeze(self, host: Host) -> None:
        """Let the process stand still; what arrives waits for it."""
        host.frozen += 1

    def thaw(self, host: Host) -> None:
        """Undo one `freeze`; everything that waited arrives now."""
        if not host.frozen:
            return
        host.frozen -= 1
        while not host.frozen and host.process is not None and host.backlog:
            self._call(host, host.backlog.popleft())
        self._arm(host)

    def replace_disk(self, host: Host, platter: Platter, why: str) -> None:
        """The host's home is another one from its next start on; only a dead host's may be replaced."""
        if host.process is not None:
            raise AssertionError("a running process's disk is not replaced")
        host.platter = platter
        self.note(host.name, "disk", why)

    def rearm(self, host: Host) -> None:
        """Its clock has changed: find anew when it wants to be woken."""
        host.wake_at = inf
        self._arm(host)

    # --- what a process may do --------------------------------------------------------------------------------

    def later(self, host: Host, delay: float, action: Callable[[], None]) -> None:
        """Have this happen to the process of this life, frozen time included; not to a later life."""
        self.agenda.after(delay, self._call_if, host, host.lives, action)

    def end(self, host: Host, error: FreecloudError) -> None:
        """The process of this life ends with this error, as its next act."""

        def give_up() -> None:
            raise error

        self.later(host, 0.0, give_up)

    def note(self, name: str, what: str, detail: str = "", *, term: int = 0, index: int = 0) -> None:
        """One line of the trace."""
        self.trace.line(self.agenda.now, name, what, term, index, detail)

    def is_seen_twice(self, name: str) -> bool:
        """Whether a host has a link with both copies of this one: then it tells the newcomer (mesh/twins.py)."""
        original, copy = self.hosts[name], self.copies.get(name)
        if original.process is None or copy is None or copy.process is None:
            return False
        others = [other.name for other in self.alive() if other is not original]
        return any(self.network.is_open(name, other) and self.network.is_open(other, name) for other in others)

    # --- what faults ask --------------------------------------------------------------------------------------

    def alive(self) -> list[Host]:
        """The hosts with a process, in order of their names."""
        return [host for host in self.hosts.values() if host.process is not None]

    def faultable(self) -> list[Host]:
        """The hosts that faults may still touch: all, until the calm; then those outside the core."""
        return [host for host in self.hosts.values() if host.name not in self.calm_core]

    def rollback_would_show(self, host: Host) -> bool:
        """True if all others run and know the host's present start, so that they can tell an older one from it.

        Nobody can tell a home that went back to a state of its present start: that is beyond rule T3.
        """
        if host.process is None:
            return False
        present = host.process.start_mark()
        others = [other.process for other in self.hosts.values() if other is not host]
        return all(other is not None and other.starts_known().get(host.name) == present for other in others)

    def may_lose_memory(self, host: Host) -> bool:
        """True if every configuration in force anywhere still has a majority with whole memories without it."""
        doubtful = self.doubtful() | {host.name}
        return all(len(voters & doubtful) <= (len(voters) - 1) // 2 for voters in self.configurations())

    def configurations(self) -> set[frozenset[str]]:
        """Every set of voters that some host, dead or alive, holds for one whose majority is needed.

        Those of the newest epoch alone: the older ones' majorities were given up.
        """
        for host in self.hosts.values():
            host.remember()
        newest = max(host.epoch for host in self.hosts.values())
        return {names for host in self.hosts.values() if host.epoch == newest for names in host.quorum_names}

    def calm(self, core: frozenset[str]) -> None:
        """Liveness: no fault touches the core from now on, and everything in it that was broken is mended."""
        self.calm_core = core
        self.network.calm(core)
        for name in sorted(core):
            host = self.hosts[name]
            host.faults.fsyncs_failing = host.faults.fuse = 0
            if host.faults.lying:
                host.platter.sync_all()
            host.faults.lying = False
            host.faults.capacity_bytes = 1 << 40
            host.stalled_until = 0.0
            host.clock.resume()
            while host.frozen:
                self.thaw(host)
            if host.process is None:
                self.start_later(host, 0.05)
            self._arm(host)
        self.note("*", "phase", f"liveness, core {' '.join(sorted(core))}")

    # --- inside -----------------------------------------------------------------------------------------------

    def _arrive(self, source: str, target: str, message: object) -> None:
        host = self._one_of(target, message)
        if host.process is not None:
            process = host.process
            self._call_if(host, host.lives, lambda: process.receive(source, message))

    def _one_of(self, name: str, message: object) -> Host:
        """Whom a message to this name reaches: of two live copies either, but an answer its caller."""
        host, copy = self.hosts[name], self.copies.get(name)
        if copy is None or copy.process is None:
            return host
        if host.process is None:
            return copy
        asker = getattr(message, "for_life", None)
        if asker is not None:
            return copy if asker == copy.lives else host
        return self._route.choice((host, copy))

    def _link_closed(self, name: str, peer: str) -> None:
        host = self.hosts[name]
        if host.process is not None:
            process = host.process
            self._call_if(host, host.lives, lambda: process.link_closed(peer))

    def _call_if(self, host: Host, life: int, action: Callable[[], None]) -> None:
        if host.lives != life or host.process is None:
            return
        if host.frozen:
            host.backlog.append(action)
            return
        self._call(host, action)

    def _call(self, host: Host, action: Callable[[], None]) -> None:
        try:
            action()
        except (ProcessDied, FreecloudError) as error:
            self._ended(host, error)
            return
        except AssertionError as error:
            self._failed(host, error)
            return
        self._arm(host)

    def _arm(self, host: Host) -> None:
        if host.process is None or host.frozen:
            return
        due = host.clock.true_time_of(host.process.next_deadline())
        if due < host.wake_at and due != inf:
            host.wake_at = due
            self.agenda.at(due, self._wake, host, due)

    def _wake(self, host: Host, due: float) -> None:
        if host.wake_at != due:
            return  # an earlier wish took its place
        host.wake_at = inf
        if host.process is not None and not host.frozen:
            self._call(host, host.process.wake)

    def _start_if(self, host: Host, wish: int) -> None:
        if host.starting == wish:
            self.start(host)

    def _bury(self, host: Host, why: str) -> None:
        host.remember()
        host.process = None
        host.wake_at = inf
        host.faults.fuse = 0
        self.deaths[why] = self.deaths.get(why, 0) + 1
        self.note(host.name, "down", why)

    def _failed(self, host: Host, error: AssertionError) -> None:
        """A core found itself in an impossible state, which stops a daemon; here it is a finding, unless bugs were
        planted: then their checker shall have its chance."""
        if isinstance(error, Violation) or not self.tolerant:
            raise error
        self._ended(host, error)

    def _ended(self, host: Host, error: BaseException) -> None:
        """The process ended by itself, or could not start; a supervisor starts it again."""
        match error:
            case ProcessDied():
                why = "at an effect"
            case DiskError():
                why = "disk error"
            case FreecloudError():
                why = error.stable_code
            case _:
                why = type(error).__name__
        self._bury(host, why)
        self.network.close_links(host.name, list(self.hosts))
        if host.is_copy and isinstance(error, FencedError):
            del self.copies[host.name]  # whoever runs it is told that it is one too many
            return
        if isinstance(error, DamagedError | FencedError):
            # What the operator does whose node says that its log is damaged, or not the one that the mesh knows.
            self.suspects.add(host.name)
            self.replace_disk(host, Platter(), f"emptied: {error}")
        self.start_later(host, RESTART_S)
