"""One seed from beginning to end: bootstrap, safety, liveness, the checks over what clients saw."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from importlib import import_module

from consensus.ledger_state import LedgerState
from tests.sim.checkers.gossip import disagreements
from tests.sim.checkers.liveness import check_alive, unfinished
from tests.sim.checkers.violation import Violation
from tests.sim.checkers.wgl import Verdict, check_registers
from tests.sim.checkers.witness import check_witness
from tests.sim.cluster import Cluster
from tests.sim.core_choice import choose_core
from tests.sim.faults.director import Director
from tests.sim.history import Operation, Outcome
from tests.sim.network import CALM
from tests.sim.options import Options
from tests.sim.workloads.workload import Workload

BOOTSTRAP_S_MAX = 60.0
LIVENESS_S_MAX = 60.0
"""What the core may take at most, in true time: some twenty of the longest election timeouts, a request's deadline
and a snapshot in pieces."""

RECOVERY_S_MAX = 60.0
GOSSIP_S_MAX = 60.0
SAFETY_STEPS_MIN = 2_000
"""A mesh that is mostly dark does little in its time, so it gets more."""

STEPS_MAX = 400_000
"""A run of more events than this is a busy loop in some machine."""


LOOK_STEPS = 500
"""How often a run that is compared with another one's story is looked at."""

Story = tuple[tuple[object, ...], tuple[object, ...]]
"""What a fault may change: who led, and how each request ended."""


class Departed(Exception):
    """The run tells another story than the one it is compared with."""


@dataclass(slots=True)
class Report:
    """What came of a seed."""

    seed: int
    failure: str = ""  # "" if every check held; else which checker, and what it saw
    checker: str = ""
    steps: int = 0
    true_s: float = 0.0
    digest: str = ""
    trace: str = ""
    struck: dict[str, int] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    leaders: int = 0
    committed: int = 0
    settled_s: float = 0.0  # how long the core took to finish its work
    wgl_gave_up: int = 0
    undone: int = 0  # requests that were answered, and whose effects no survivor held
    excused: str = ""  # a lost majority, which no bound can be asked of (rule T5)
    story: Story = ((), ())


def simulate(options: Options, *, keep_trace: bool = False, tolerant: bool = False) -> Report:
    """Run one seed; never raises for what a checker found, but reports it.

    Args:
        tolerant: An assertion within a core ends that process alone, as it ends a daemon.
    """
    report = Report(options.seed)
    simulation = Simulation(options)
    simulation.cluster.world.tolerant = tolerant
    try:
        simulation.run(report)
    except Violation as violation:
        report.checker, report.failure = violation.checker, str(violation)
    except Exception as error:  # a core that raises is a finding like any other, with its seed
        where = traceback.extract_tb(error.__traceback__)[-1]
        report.checker = "raised"
        report.failure = f"{type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
        if keep_trace:
            report.failure += "\n" + "".join(traceback.format_exception(error))
    simulation.tell(report)
    if keep_trace:
        report.trace = f"{options.text()}\n{simulation.cluster.world.trace.text()}"
    return report


class Simulation:
    """The phases of one run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cluster = Cluster(options)
        self.director = Director(self.cluster.world)
        self.workloads: list[Workload] = []
        self._compared_with: Story | None = None
        self._compared = 0  # so many requests have ended as in the other story

    def run(self, report: Report) -> None:
        """All phases; raises the first `Violation`."""
        cluster, world = self.cluster, self.cluster.world
        cluster.bootstrap(BOOTSTRAP_S_MAX)
        world.note("*", "phase", "safety")
        self.director.begin()
        self._begin_workloads()
        self._run_until(world.agenda.now + self.options.safety_s)
        while world.agenda.steps < SAFETY_STEPS_MIN:
            self._run_until(world.agenda.now + 1.0)
        self.director.stop()
        self._finish_recovery()
        core = choose_core(
            world.random("core"), list(world.hosts), sorted(world.configurations(), key=sorted), cluster.doubtful()
        )
        world.calm(core)
        began = world.agenda.now
        self._run_until(began + self.options.request_s)  # work goes on in the calm
        for workload in self.workloads:
            workload.stop()
        core = self._settle(began, core, report)
        for name in sorted(core & set(world.copies)):
            raise Violation("liveness", f"a copy of {name} still runs beside it")
        if not report.excused:
            self._agree_on_members(core)
        self._check_histories(report)

    def tell(self, report: Report) -> None:
        """Fill in what is known of a run, however it ended."""
        world = self.cluster.world
        report.steps, report.true_s = world.agenda.steps, world.agenda.now
        report.digest = world.trace.digest()
        report.struck, report.deaths = self.director.struck, world.deaths
        history = self.cluster.clients.history
        report.outcomes = history.counts()
        report.leaders = self.cluster.oracle.leaders.terms()
        report.committed = self.cluster.oracle.newest.log.last
        report.story = self._story()

    def departs_from(self, story: Story) -> bool:
        """Run until this turns out to be another story than that one; False if it is the same to its end."""
        self._compared_with = story
        report = Report(self.options.seed)
        try:
            self.run(report)
        except Departed:
            return True
        except Violation as violation:
            report.failure = str(violation)
        return bool(report.failure) or self._story() != story

    def _story(self) -> Story:
        operations = self.cluster.clients.history.operations
        return self.cluster.oracle.leaders.sequence(), tuple(told(operation) for operation in operations)

    def _compare(self) -> None:
        """Raise `Departed` if a request has ended otherwise, or is another one."""
        assert self._compared_with is not None
        operations, others = self.cluster.clients.history.operations, self._compared_with[1]
        for place in range(self._compared, len(operations)):
            if operations[place].outcome is Outcome.OPEN:
                break
            if place >= len(others) or told(operations[place]) != others[place]:
                raise Departed
            self._compared = place + 1

    def _finish_recovery(self) -> None:
        """An operator who has begun to bring a lost majority back is not sent home."""
        world = self.cluster.world
        world.network.options = CALM
        end = world.agenda.now + RECOVERY_S_MAX
        while world.operators and world.agenda.now < end:
            self._run_until(world.agenda.now + 0.25)
        if world.operators:
            raise Violation("liveness", f"after {RECOVERY_S_MAX:.0f} s the lost majority is not given up yet")

    def _begin_workloads(self) -> None:
        clients = [f"c{number}" for number in range(1, self.options.clients + 1)]
        for name in self.options.workloads:
            module = import_module(f"tests.sim.workloads.{name}")
            workload: Workload = getattr(module, name.capitalize())(self.cluster.world, self.cluster.clients)
            self.workloads.append(workload)
            workload.begin([f"{client}{name[0]}" for client in clients])

    def _run_until(self, end: float) -> None:
        self.cluster.world.agenda.run_until(end, self._too_long)

    def _too_long(self) -> bool:
        if self._compared_with is not None and self.cluster.world.agenda.steps % LOOK_STEPS == 0:
            self._compare()
        if self.cluster.world.agenda.steps > STEPS_MAX:
            raise Violation("liveness", f"more than {STEPS_MAX} events: something never rests")
        return False

    def _settle(self, began: float, core: frozenset[str], report: Report) -> frozenset[str]:
        """Wait, within the bound, until the core has finished its work; returns the core, which may have grown.

        A leader may have taken a node into the configuration whose death it could not have noticed yet. Then what is
        in force has no quorum within the core, and what it lacks joins it.
        """
        world = self.cluster.world
        last = self.cluster.oracle.newest.log.last
        what = "not looked at yet"
        while what and world.agenda.now < began + LIVENESS_S_MAX:
            self._run_until(world.agenda.now + 0.25)
            what = unfinished(self.cluster.core_views(core), quiet_since_index=last)
            busy = sum(workload.busy for workload in self.workloads)
            if not what and busy:
                what = f"{busy} clients have no answer"
            wider = core | self.cluster.missing_for_quorum(core)
            if what and wider != core:
                core, began = wider, world.agenda.now
                world.calm(core)
        report.settled_s = world.agenda.now - began
        if what and self.cluster.majority_is_lost(core):
            report.excused = what
            return core
        check_alive(what, waited_s=report.settled_s)
        return core

    def _agree_on_members(self, core: frozenset[str]) -> None:
        world = self.cluster.world
        end = world.agenda.now + GOSSIP_S_MAX
        while self._gossip_disagrees(core) and world.agenda.now < end:
            self._run_until(world.agenda.now + 0.5)
        for observer, subject, seen in self._gossip_disagrees(core)[:1]:
            raise Violation("gossip", f"{observer} still sees {subject} as {seen}")

    def _gossip_disagrees(self, core: frozenset[str]) -> list[tuple[str, str, str]]:
        views = self.cluster.gossip_views(core)
        return disagreements(views, core & set(views), set(self.cluster.world.hosts) - core)

    def _check_histories(self, report: Report) -> None:
        report.undone = self.cluster.undo_what_was_given_up()
        self.cluster.place_writes()
        operations = self.cluster.clients.history.operations
        check_witness(operations)
        report.wgl_gave_up = check_registers(operations)[Verdict.GAVE_UP]
        final: LedgerState = self.cluster.final_state()
        for workload in self.workloads:
            workload.check(final)


def told(operation: Operation) -> tuple[object, ...]:
    """How a request ended, without when."""
    return operation.kind, operation.key, operation.argument, operation.outcome.value, operation.answer
