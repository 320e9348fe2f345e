"""How every test runs: coroutine tests under trio with a deadline, and the fixtures that all kinds share."""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TEST_DEADLINE_S = 60
"""A test that hangs fails here, long before the whole run would: tenfold what any of them takes."""

MACHINE_WIDE = frozenset({"acceptance", "e2e", "scheduler_runtime"})

PLAIN_DEADLINE_S = 300
"""Of a test without trio: the longest of them drives real daemons, or the simulator."""


settings.register_profile("suite", derandomize=True)  # `make test` says the same of the same code; `make fuzz` explores


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "autojump: run under a clock that jumps to the next deadline when all wait")
    config.addinivalue_line("markers", "deadline(seconds): another deadline than the default one")


class Apart(LoadScopeScheduling):
    """What runs beside what: daemons of two tests on one machine would take each other's ports, and a test of what a
    sandbox leaves behind would find another's.

    A cut mesh has networks of its own. All else goes file by file, or fixtures of a module would be made twice.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        machine_wide = MACHINE_WIDE.intersection(file.split("/")) and not file.endswith("/test_cuts.py")
        return "daemons" if machine_wide else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Apart:
    """Of the runs on two cores (`make test`)."""
    return Apart(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests with trio, the others under an alarm."""
    arguments: dict[str, Any] = {
        name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters
    }
    marker = pyfuncitem.get_closest_marker("deadline")
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        with alarm(marker.args[0] if marker else PLAIN_DEADLINE_S):
            pyfuncitem.obj(**arguments)
        return True
    seconds = marker.args[0] if marker else TEST_DEADLINE_S

    async def bounded() -> None:
        with trio.fail_after(seconds):
            await pyfuncitem.obj(**arguments)

    if pyfuncitem.get_closest_marker("autojump"):
        clock = trio.testing.MockClock(autojump_threshold=0.01)
        trio.run(functools.partial(pyfuncitem.obj, **arguments), clock=clock)
    else:
        trio.run(bounded)
    return True


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Fail where the test stands when the time is over, whatever it waits for."""

    def fail(*_: object) -> NoReturn:
        raise TimeoutError(f"the test hung: {seconds} s are over")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
