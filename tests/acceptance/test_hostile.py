"""Done when, line 7: a hostile app gets nowhere, and its neighbour goes on, by the public interface alone.

`examples/hostile` is deployed by the command to a real daemon and tells by the ingress what it got. How much its floods
cost a neighbour is in `bench/neighbours.py`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler.runtimes.runtime import PIDS_MAX
from scheduler.runtimes.sandbox_probe import LADDER
from scheduler.runtimes.shim_memory import descendants
from tests.e2e import leftovers
from tests.e2e.cluster import Daemon, wait_until
from tests.e2e.hostile import Asked, Scene, asking
from tests.unit.scheduler_runtime.targets import targets

RUNGS = [rung.value for rung in LADDER]

LIMITS_OF_THEIR_OWN = {"raise_a_limit", "dump_core"}
MAY_BE_ABSENT = {"type_into_a_terminal", "map_physical_memory"}
"""What holds without a sandbox as well, and what this kernel may not have at all: they prove nothing either way."""

TRIES_MIN = 25


@contextmanager
def scene(sandbox: str) -> Iterator[Scene]:
    """A node on this rung with a neighbour on it; nothing is left of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    folder.chmod(0o711)
    node = Daemon("n1", folder / "n1")
    node.home.mkdir(mode=0o711)
    unsandboxed = str(sandbox == "none").lower()
    (node.home / "freecloud.toml").write_text(f'sandbox = "{sandbox}"\nunsandboxed = {unsandboxed}\n')
    try:
        done = node.up()
        assert done.status == 0, done.err
        made = Scene(node, folder)
        found = node.status()["node"]["sandbox"]
        if sandbox not in ("auto", found):
            pytest.skip(f"no {sandbox} on this machine: {found}")
        made.deploy_neighbour()
        yield made
    finally:
        known = leftovers.node_id(node.home)
        node.destroy()
        assert known is None or not leftovers.groups_of(known)
        wait_until("no process has to do with the folder", lambda: not leftovers.processes_of(folder))
        shutil.rmtree(folder)


def tried(sandbox: str) -> dict[str, str]:
    """What the hostile app says that it got."""
    with scene(sandbox) as made, targets() as listeners:
        made.deploy_hostile(made.aims(listeners))
        return made.tries()


@pytest.fixture(scope="module")
def unprotected() -> dict[str, str]:
    """The same program without a sandbox, on the same machine: else its failures would prove nothing."""
    if os.getuid() != 0:
        pytest.skip("needs root: without a sandbox, every try must succeed")
    return tried("none")


@pytest.mark.root
@pytest.mark.deadline(180)
@pytest.mark.parametrize("rung", RUNGS)
def test_a_hostile_app_gets_nowhere_on_this_rung_and_everywhere_without(
    rung: str, unprotected: dict[str, str]
) -> None:
    told = tried(rung)
    assert {name: got for name, got in told.items() if got == "got it"} == {}
    succeed = {name for name, got in unprotected.items() if got == "got it"}
    assert set(told) - succeed <= LIMITS_OF_THEIR_OWN | MAY_BE_ABSENT, unprotected
    assert len(succeed) >= TRIES_MIN


@pytest.mark.deadline(180)
def test_a_neighbour_answers_all_the_while_that_a_hostile_app_floods_its_node() -> None:
    """Log, disk, memory, processes: each meets its bound, is told, and costs nobody else a request."""
    with scene("auto") as made:
        if made.node.status()["node"]["sandbox"] == "none":
            pytest.skip("no sandbox on this machine")
        made.deploy_hostile({})
        with asking(made.node, "neighbour") as asked:
            made.make_trouble("flood-log")
            _goes_on(asked)
            made.make_trouble("flood-disk")
            wait_until("the disk flood is told", lambda: "MiB of disk used" in made.placed("hostile")["detail"])
            made.wait_hostile_serves()
            made.make_trouble("eat-memory")
            _goes_on(asked)
            made.wait_hostile_serves()
            made.make_trouble("bomb")
            shim = made.run_of("hostile").facts.shim_pid
            # It slows itself down: each that it forked spins on the app's own share of the processor.
            wait_until("the bomb has gone off", lambda: len(descendants(shim)) > 40)
            _goes_on(asked)
            assert len(descendants(shim)) <= PIDS_MAX + 2  # bubblewrap's own
            done = made.node.run("apps", "remove", "hostile")
            assert done.status == 0, done.err
            wait_until("nothing of it is left", lambda: not descendants(shim))
        assert asked.failed == []
        logs = sum(path.stat().st_size for path in (made.node.home / "logs").rglob("*.log*"))
        assert logs < 40 << 20


def _goes_on(asked: Asked) -> None:
    """Twenty more answers, each on a connection of its own."""
    before = asked.answered
    wait_until("the neighbour has answered twenty times more", lambda: asked.answered >= before + 20)
