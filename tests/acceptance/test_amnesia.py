"""Done when, line 4: homes that lost their memory, were copied, or are old, with real daemons (rules T3 and T5).

Never two leaders in a term, nothing lost that was acknowledged and that a survivor holds, and each case is told in
words. What the rules are, and why: docs/decisions/whose-memory.md.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.home import Home
from tests.e2e.cluster import Cluster, Daemon, Done, cluster, wait_until
from tests.e2e.crash_points import Kept

LEADS = re.compile(r"(\S+) leads \((epoch \d+, term \d+)\)")
MEMORY = ("log", "snapshots", "boot")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an app's own user can pass through, with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def mesh(folder: Path) -> Iterator[Cluster]:
    with cluster(folder) as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """One mesh of three for all that happens to one home of it."""
    made = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    with cluster(made) as three:
        three.start(3)
        yield three
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def three(shared: Cluster) -> Cluster:
    """It, whole, whatever the test before has left; the last test of it leaves another third home."""
    for node in shared.nodes:
        if node.pid is None:
            assert start(node).status == 0
    all_vote(shared)
    return shared


class Leaders:
    """Who led in which term, by the word of the leaders themselves; a home is one node, whatever its name."""

    def __init__(self) -> None:
        self._led: defaultdict[str, set[Path]] = defaultdict(set)

    def ask(self, *nodes: Daemon) -> None:
        """Gather what these have told; to be called before one of them is killed, for its events die with it."""
        for node in nodes:
            for text in events(node):
                if (found := LEADS.fullmatch(text)) is not None and found[1] == node.name:
                    self._led[found[2]].add(node.home)

    def check(self, *nodes: Daemon) -> None:
        self.ask(*nodes)
        assert self._led, "somebody has led"
        doubled = {term: homes for term, homes in self._led.items() if len(homes) > 1}
        assert not doubled


def copy_home(node: Daemon, to: Path) -> Daemon:
    """What a backup does: everything of the files that can be copied, as they are at this moment."""
    subprocess.run(["cp", "-a", str(node.home), str(to)], check=True, timeout=60)
    (to / "lock").write_text("")
    return Daemon(node.name, to)


def forget(node: Daemon) -> None:
    """An emptied disk: the identity and whom to call are there, all that was remembered is gone."""
    for part in MEMORY:
        path = node.home / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def start(node: Daemon) -> Done:
    """As a service manager does: on the ports that it had, under the name that it has."""
    return node.run("up", "--detach", "--json")


def row_of(asked: Daemon, node: Daemon) -> dict[str, Any]:
    (row,) = (row for row in asked.client.get("/v1/nodes")["nodes"] if row["name"] == node.name)
    return dict(row)


def at_once(nodes: list[Daemon]) -> list[Done]:
    with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(start, nodes))


def told(done: Done) -> str:
    """What a start says beside its addresses; that another program has its port is another story."""
    assert done.status == 0, done.err
    return " ".join(notice for notice in done.json["notices"] if not notice.startswith("port "))


def story(node: Daemon, done: Done, phrase: str) -> str:
    """What a start says of its memory; on a busy machine it serves before it hears of it, and tells it as an event."""
    said = told(done)
    if phrase in said:
        return said
    return wait_until(f"told: {phrase}", lambda: next((text for text in events(node) if phrase in text), None))


def end_of(node: Daemon, done: Done) -> str:
    """The one line of a start that is sent away; on a busy machine it serves for a moment first."""
    if done.status == 4:
        assert done.err.count("\n") == 1, done
        return done.err
    assert done.status == 0, done
    wait_until("it has ended", lambda: node.pid is None)
    return Home(node.home).daemon_log.read_text().splitlines()[-1]


def events(node: Daemon) -> list[str]:
    return [event["text"] for event in node.client.lines("GET", "/v1/events", query={"follow": 0})]


def votes_again(asked: Daemon, node: Daemon) -> None:
    wait_until(f"{node.name} is a voter again", lambda: node.name in asked.status()["quorum"]["voters"])
    wait_until("it has caught up", lambda: node.status()["quorum"]["voters"] == asked.status()["quorum"]["voters"])


def all_vote(mesh: Cluster) -> None:
    for node in mesh.nodes:
        wait_until("all vote", lambda node=node: len(node.status()["quorum"]["voters"]) == len(mesh.nodes))


def only_line(done: Done, status: int) -> str:
    assert (done.status, done.err.count("\n")) == (status, 1), done
    return done.err


def moved_aside(node: Daemon) -> list[Path]:
    return sorted(Home(node.home).lost_and_found.iterdir())


# --- one home ---------------------------------------------------------------------------------------------------


@pytest.mark.deadline(240)
def test_an_emptied_disk_returns_as_a_learner_even_if_it_is_emptied_twice(three: Cluster) -> None:
    first, second, victim = three.nodes
    leaders, kept, aside = Leaders(), Kept(), moved_aside(victim)
    kept.add(victim)
    leaders.ask(victim)
    for _ in range(2):
        victim.destroy()
        forget(victim)
        assert "the log of this home is gone" in told(start(victim))
    kept.add(first)
    votes_again(first, victim)
    kept.all_in(victim)
    assert moved_aside(victim) == aside, "nothing was there to be moved"
    leaders.ask(second)
    second.destroy()
    wait_until("the two others decide", lambda: kept.add(first) is None)
    wait_until("it has what was decided", lambda: kept.all_in(victim))
    leaders.check(first, victim)


@pytest.mark.deadline(240)
def test_a_clone_beside_its_original_ends_at_every_start_and_the_original_does_not_notice(
    three: Cluster, folder: Path
) -> None:
    first, second, original = three.nodes
    kept, leaders = Kept(), Leaders()
    pid, address = original.pid, original.status()["node"]["addresses"]["mesh"]
    before = {node.name: len(events(node)) for node in (first, second)}
    shown = {row_of(node, original)["address"] for node in (first, second)} | {address}
    clone = copy_home(original, folder / "clone")
    try:
        for _ in range(2):
            assert "another copy of this home is running" in end_of(clone, start(clone))
            assert clone.pid is None
        kept.add(original)
        assert original.pid == pid
        for node in (first, second):
            row = row_of(node, original)
            assert row["state"] == "alive" and row["address"] in shown, row
            since = events(node)[before[node.name] :]
            assert not [text for text in since if text in (f"{original.name} left", f"{original.name} is down")]
        wait_until("all have it", lambda: all(kept.all_in(node) for node in three.nodes))
        leaders.check(*three.nodes)
    finally:
        clone.destroy()


@pytest.mark.deadline(240)
def test_a_week_old_home_is_moved_aside_and_learns_what_was_acknowledged_since(three: Cluster, folder: Path) -> None:
    first, _, original = three.nodes
    kept, leaders = Kept(), Leaders()
    kept.add(original)
    backup = copy_home(original, folder / "backup")
    for _ in range(3):
        kept.add(original)
    leaders.ask(original)
    original.destroy()
    shutil.rmtree(original.home)
    backup.home.rename(original.home)
    said = story(original, start(original), "comes back from a copy of its home")
    aside = moved_aside(original)[-1]
    assert str(aside) in said
    assert sorted(part.name for part in aside.iterdir()) == sorted(MEMORY)
    votes_again(first, original)
    kept.all_in(original)
    assert "home" not in told(restarted(original)), "it belongs here from now on"
    leaders.check(*three.nodes)


def restarted(node: Daemon) -> Done:
    node.kill_daemon()
    return start(node)


@pytest.mark.deadline(240)
@pytest.mark.parametrize("starts", [1, 3])
def test_a_snapshot_of_the_disk_from_before_the_last_start_is_old_however_often_it_was_started(
    three: Cluster, folder: Path, starts: int
) -> None:
    """A snapshot below the file system keeps what no copy keeps; the thread of starts tells all the same.

    After one start its counter equals the one that the ledger knows, after three it is higher.
    """
    first, second, original = three.nodes
    kept, leaders = Kept(), Leaders()
    leaders.ask(original)
    original.kill_daemon()
    saved = folder / "saved"
    saved.mkdir()
    for part in MEMORY:
        subprocess.run(["cp", "-a", str(original.home / part), str(saved)], check=True, timeout=60)
    assert "home" not in told(start(original))
    kept.add(original)
    leaders.ask(original)
    original.kill_daemon()
    forget(original)
    for part in MEMORY:
        (saved / part).rename(original.home / part)
    for node in (first, second)[: 2 if starts > 1 else 0]:
        os.kill(node.pid or 0, signal.SIGSTOP)  # the first starts find nobody to ask
    try:
        for _ in range(starts - 1):
            assert "no quorum yet" in told(start(original))
            original.kill_daemon()
    finally:
        for node in (first, second):
            os.kill(node.pid or 0, signal.SIGCONT)
    story(original, start(original), "comes back with old state")
    votes_again(first, original)
    kept.all_in(original)
    leaders.check(*three.nodes)


@pytest.mark.deadline(240)
def test_an_original_that_was_paused_while_a_copy_took_its_place_ends_and_says_nothing_in_its_name(
    three: Cluster,
) -> None:
    first, second, original = three.nodes
    kept, leaders = Kept(), Leaders()
    kept.add(original)
    leaders.ask(original)
    copy = copy_home(original, original.home.with_name("copy"))
    three.nodes.append(copy)
    os.kill(original.pid or 0, signal.SIGSTOP)
    try:
        story(copy, start(copy), "comes back from a copy of its home")
        votes_again(first, copy)
        kept.add(copy)
    finally:
        os.kill(original.pid or 0, signal.SIGCONT)
    three.nodes.remove(original)
    wait_until("the original has ended", lambda: original.pid is None)
    last = Home(original.home).daemon_log.read_text().splitlines()[-1]
    assert last.startswith("freecloud: another copy of"), last
    kept.check(copy)
    assert not [text for node in (first, second) for text in events(node) if text == f"{original.name} left"]
    assert [row["state"] for row in first.client.get("/v1/nodes")["nodes"]] == ["alive"] * 3
    leaders.check(*three.nodes)


@pytest.mark.deadline(240)
def test_of_two_clones_started_at_once_one_takes_the_place_and_one_ends(three: Cluster) -> None:
    first, _, original = three.nodes
    kept, leaders = Kept(), Leaders()
    kept.add(original)
    leaders.ask(original)
    original.destroy()
    clones = [copy_home(original, original.home.with_name(name)) for name in ("c1", "c2")]
    three.nodes.remove(original)
    three.nodes.extend(clones)
    shutil.rmtree(original.home)
    ends = at_once(clones)
    wait_until("one is left", lambda: sum(clone.pid is not None for clone in clones) == 1)
    ((stays, end),) = ((clone, end) for clone, end in zip(clones, ends, strict=True) if clone.pid is not None)
    story(stays, end, "comes back from a copy of its home")
    (gone,) = (clone for clone in clones if clone is not stays)
    assert "another copy of" in (ends[clones.index(gone)].err + Home(gone.home).daemon_log.read_text())
    votes_again(first, stays)
    kept.add(stays)
    kept.all_in(stays)
    leaders.check(*(node for node in three.nodes if node is not gone))


# --- a lost majority --------------------------------------------------------------------------------------------


@pytest.mark.deadline(240)
def test_two_survivors_of_five_recover_and_the_old_ones_are_fenced_when_they_return(mesh: Cluster) -> None:
    mesh.start(5)
    all_vote(mesh)
    kept, lost, leaders = Kept(), Kept(), Leaders()
    leader = mesh.leader()
    kept.add(leader)
    survivors = [node for node in mesh.nodes if node is not leader][:2]
    destroyed = [node for node in mesh.nodes if node not in survivors]
    wait_until("the survivors have it", lambda: all(kept.all_in(node) for node in survivors))
    for node in survivors:
        node.kill_daemon()  # a paused one would find what it missed in its sockets
    lost.add(leader)
    leaders.ask(*destroyed)
    for node in destroyed:
        node.destroy()
    shutil.rmtree(destroyed[-1].home)
    assert all("no quorum yet" in told(done) for done in at_once(survivors))
    one = survivors[0]
    wait_until("they see each other", lambda: one.status()["quorum"]["reachable"] == 2)
    recover(mesh, one, destroyed)
    wait_until("both are in it", lambda: all(node.status()["mesh"]["epoch"] == 2 for node in survivors))
    kept.add(one)
    wait_until("the survivors have it", lambda: all(kept.all_in(node) for node in survivors))
    for node, done in zip(destroyed[:-1], at_once(destroyed[:-1]), strict=True):
        said = story(node, done, "this node's memory is not the mesh's any more")
        assert re.search(r"was never agreed on in epoch 2|a history that was given up", said), said
        aside, *_ = moved_aside(node)  # and once more, if it learnt from the other one that came back
        assert str(aside) in said and any((aside / "log").iterdir()), "what only it held is there"
        votes_again(one, node)
        kept.all_in(node)
        assert node.status()["mesh"]["epoch"] == 2
    leaders.check(*survivors, *destroyed[:-1])


def recover(mesh: Cluster, asked: Daemon, lost: list[Daemon]) -> None:
    """Nothing happens without the mesh's id typed; the plan names who is missed and what becomes of them."""
    mesh_id = asked.status()["mesh"]["id"]
    asking = asked.run("recover")
    assert asking.status == 4 and "recover asks before it acts" in asking.err
    assert f"not answering: {', '.join(sorted(node.name for node in lost))}" in asking.err
    assert "would open epoch 2" in asking.err and "lost+found" in asking.err
    wrong = asked.run("recover", "--yes", "yes")
    assert wrong.status == 4 and "nothing was changed" in wrong.err
    done = asked.run("recover", "--yes", mesh_id)
    assert done.status == 0, done.err
    assert "epoch 2 is open" in done.out
    wait_until("it leads or hears who does", lambda: asked.status()["quorum"]["has_quorum"])
    again = asked.run("recover", "--yes", mesh_id)
    assert again.status == 4 and "there is nothing to recover" in again.err


@pytest.mark.deadline(240)
def test_a_moved_home_of_a_mesh_that_has_no_others_waits_for_its_owner_s_word(mesh: Cluster, folder: Path) -> None:
    """It may be an old copy of a home that others still follow: it gives no vote, but its owner may go on from it."""
    (only,) = mesh.start(1)
    kept, leaders = Kept(), Leaders()
    kept.add(only)
    leaders.ask(only)
    only.destroy()
    moved = copy_home(only, folder / "moved")
    mesh.nodes[:] = [moved]
    shutil.rmtree(only.home)
    assert "this home is a copy, or was moved" in told(start(moved))
    assert "this home is a copy, or was moved" in " ".join(moved.status()["warnings"])
    assert not moved.status()["quorum"]["has_quorum"]
    done = moved.run("recover", "--yes", moved.status()["mesh"]["id"])
    assert done.status == 0, done.err
    kept.add(moved)
    kept.check(moved)
    wait_until("nothing is left to warn of", lambda: "copy" not in " ".join(moved.status()["warnings"]))
    assert "home" not in told(restarted(moved))
    kept.check(moved)
    leaders.check(moved)


@pytest.mark.deadline(120)
def test_an_emptied_home_without_anybody_to_learn_from_says_so(mesh: Cluster) -> None:
    first, second = mesh.start(2)
    first.destroy()
    second.destroy()
    forget(second)
    said = told(start(second))
    assert "the log of this home is gone" in said and "no quorum yet" in said
    assert "has not learnt the ledger yet" in only_line(second.run("invite"), 5)
    assert start(first).status == 0
