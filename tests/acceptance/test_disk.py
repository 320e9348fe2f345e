"""Done when, line 9: what a disk can do to a node, with real daemons (faults D1 to D10, P1).

Nothing that was acknowledged is lost; a start is clean or refused with words that say what to do, and doing that helps.
The full size of the crash points is `python -m bench.crash_points`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from daemon.home import Home
from mesh.errors import FreecloudError, Kind
from tests.e2e import mounts, strace
from tests.e2e.cluster import Cluster, Daemon, Done, cluster, wait_until
from tests.e2e.crash_points import IMPATIENT, SCENARIOS, Kept, Restart, Scenario
from tests.e2e.strace import Point

STRIKES = 2
SEED = "disk-1"

traced = pytest.mark.skipif(not strace.has_strace(), reason="needs strace, and the right to trace")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an app's own user can pass through, with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


# --- killed at a system call ----------------------------------------------------------------------------------


@traced
@pytest.mark.deadline(120)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_a_daemon_killed_at_a_system_call_comes_back_with_all_it_promised(
    folder: Path, scenario: type[Scenario]
) -> None:
    played = scenario(folder)
    try:
        points = played.points()
        assert len(points) > 20, "a run without a fault makes more writing calls than that"
        struck = [played.strike(point) for point in random.Random(SEED).sample(points, STRIKES)]
        assert any(one.died for one in struck), [str(one) for one in struck]
    finally:
        played.stop()


# --- a failed fsync -------------------------------------------------------------------------------------------


@traced
@pytest.mark.deadline(120)
def test_a_failed_fsync_ends_the_node_with_one_line_and_the_others_go_on(folder: Path) -> None:
    with cluster(folder) as mesh:
        first, _, victim = mesh.start(3)
        kept = Kept()
        kept.add(first)
        victim.kill_daemon()
        running = strace.start((), victim.home, "up", "--name", victim.name)
        assert running.wait_ready(), running.lines
        wait_until("all see all", lambda: mesh.alive(first) == 3)
        pid = victim.pid
        assert pid is not None
        told_before = len(running.lines)
        with strace.attached(Point("fdatasync", 1).fail("EIO"), pid):
            kept.add(first)
            wait_until("the node ended", lambda: running.status is not None)
        assert running.status == 1
        (line,) = running.lines[told_before:]
        assert "cannot make a write durable" in line
        assert "start it again" in line
        kept.add(first)
        assert victim.up().status == 0
        wait_until("all see all", lambda: mesh.alive(first) == 3)
        serves(victim, kept)


@traced
@pytest.mark.deadline(120)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_disk_that_fails_at_a_start_ends_it_with_one_line_or_is_lived_with(folder: Path, error: str) -> None:
    """A full disk may be lived with: then the node serves what it has. Its own output may go on (`write` is spared)."""
    played = Restart(folder)
    try:
        points = [point for point in played.points() if point.call != "write"]
        (node,) = played.cluster.nodes
        for point in random.Random(f"{SEED} {error}").sample(points, STRIKES):
            node.kill_daemon()
            starting = strace.start(point.fail(error), node.home, "up", "--name", node.name)
            if starting.wait_ready():
                node.kill_daemon()
            assert not [line for line in starting.lines if "Traceback" in line], (point, starting.lines)
            if starting.status != -signal.SIGKILL:
                assert starting.status == 1, point
                assert starting.lines[-1].startswith("freecloud: "), (point, starting.lines)
                assert "start it again" in starting.lines[-1], (point, starting.lines)
            strace.release(starting)
            assert node.up().status == 0, point
            serves(node, played.kept)
    finally:
        played.stop()


# --- a full disk ----------------------------------------------------------------------------------------------

BIG_SECRET = "v" * 60_000
"""Some 70 of them fill a segment of the log."""

SMALL_BYTES = 400 << 20
"""What a node says of its free disk is coarse; an app would not be placed on less."""


@pytest.mark.root
@pytest.mark.deadline(120)
def test_a_full_disk_refuses_writes_goes_on_serving_and_resumes_by_itself(folder: Path) -> None:
    if not mounts.can_mount(folder / "probe"):
        pytest.skip("needs root, to mount a small file system")
    with mounts.small_disk(folder / "small", SMALL_BYTES) as small, cluster(small) as mesh:
        (node,) = mesh.start(1)
        kept = Kept()
        kept.add(node)
        deploy_web(node, folder)
        filler = mounts.fill(small)
        refusal = wait_until("a write is refused", lambda: refused(node, kept))
        assert (refusal.kind, "is full" in refusal.why) == (Kind.UNAVAILABLE, True), refusal
        assert says_full(node)
        assert node.get("web", "/release.txt")[2] == b"first"
        kept.check(node)
        pid = node.pid
        filler.unlink()
        wait_until("writes are taken again", lambda: accepted(node, kept))
        assert node.pid == pid, "it was restarted"
        assert not says_full(node)
        assert deploy(node, folder, "second").status == 0
        node.kill_daemon()
        assert node.up().status == 0
        serves(node, kept)


@pytest.mark.root
@pytest.mark.deadline(120)
def test_a_leader_whose_disk_is_full_hands_over_and_nothing_is_refused(folder: Path) -> None:
    if not mounts.can_mount(folder / "probe"):
        pytest.skip("needs root, to mount a small file system")
    with mounts.small_disk(folder / "n1", SMALL_BYTES) as small, cluster(folder) as mesh:
        full, other, _ = mesh.start(3)
        wait_until("three vote", lambda: len(other.status()["quorum"]["voters"]) == 3)
        assert mesh.leader() is full
        kept = Kept()
        kept.add(other)
        filler = mounts.fill(small)
        # Each of these is acknowledged, or raises: the leader hands over in the midst of them.
        wait_until("another leads", lambda: accepted(other, kept, BIG_SECRET) and mesh.leader() is not full)
        assert says_full(full)
        serves(full, kept)
        filler.unlink()
        wait_until("it has room again", lambda: not says_full(full))
        kept.add(full)
        serves(full, kept)


def says_full(node: Daemon) -> bool:
    return any("disk of this node is full" in warning for warning in node.status()["warnings"])


def accepted(node: Daemon, kept: Kept, value: str = "v") -> bool:
    """Write once; an error goes to whoever waits."""
    kept.add(node, value)
    return True


def refused(node: Daemon, kept: Kept) -> FreecloudError | None:
    """Write until a write is refused."""
    try:
        kept.add(node, BIG_SECRET)
    except FreecloudError as error:
        return error
    return None


# --- damaged files --------------------------------------------------------------------------------------------


class Victim:
    """One node of three, stopped, whose files are damaged and put back from a copy made while it was stopped."""

    def __init__(self, mesh: Cluster, folder: Path) -> None:
        self.mesh = mesh
        self.kept = Kept()
        self.aside = folder / "aside"
        self.aside.mkdir()
        self.node = mesh.start(3)[2]
        self.grow()

    @property
    def first(self) -> Daemon:
        return self.mesh.nodes[0]

    @property
    def log(self) -> Path:
        return sorted(Home(self.node.home).log.glob("*.log"))[-1]

    def grow(self) -> None:
        """Let it take snapshots and cut its log, which a real one does after 10,000 entries."""
        self.node.kill_daemon()
        home = self.node.home
        running = strace.start((), home, f"--home={home}", f"--name={self.node.name}", module=IMPATIENT)
        assert running.wait_ready(), running.lines
        for _ in range(20):
            self.kept.add(self.first)
        wait_until("a snapshot", lambda: any(Home(home).snapshots.glob("*.snapshot")))
        wait_until("it has all", lambda: self.node.status()["applied"] == self.first.status()["applied"])
        self.node.kill_daemon()

    def starts(self) -> None:
        """It starts, has everything, and stops again."""
        done = self.node.up()
        assert done.status == 0, done.err
        wait_until("it is alive", lambda: self.mesh.alive(self.first) == 3)
        serves(self.node, self.kept)
        self.kept.add(self.first)
        wait_until("it has the last one too", lambda: self.kept.all_in(self.node))
        assert self.node.pid is not None
        self.node.kill_daemon()

    def refuses(self, status: int = 1) -> str:
        """It does not start; one line says why, and what to do."""
        done = self.node.up()
        assert done.status == status, done
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in Home(self.node.home).daemon_log.read_text()
        return done.err

    def obey(self, told: str) -> None:
        """Do what the refusal of a damaged memory says, to the letter."""
        said = re.search(r"move (.+) out of (\S+) and start again", told)
        assert said is not None, told
        target = Path(tempfile.mkdtemp(dir=self.aside))
        for name in said[1].split(", "):
            if (Path(said[2]) / name).exists():
                shutil.move(Path(said[2]) / name, target / name)

    def altered(self, path: Path, at: int) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 0x10
        path.write_bytes(content)


RECORD = b"\xf5rec"


def records(log: Path) -> list[int]:
    """Where the records of a segment begin; the last one is the mark behind the last synced unit."""
    return [found.start() for found in re.finditer(RECORD, log.read_bytes())]


@pytest.mark.deadline(150)
def test_damaged_files_are_told_and_what_is_told_to_do_works(folder: Path) -> None:
    with cluster(folder) as mesh:
        victim = Victim(mesh, folder)
        home = Home(victim.node.home)
        for damage in (torn_tail, rot_in_the_log, rotten_snapshot, rotten_boot, rotten_mesh, rotten_ports, rotten_key):
            damage(victim, home)


def torn_tail(victim: Victim, home: Home) -> None:
    """Half a record at the end, and no mark behind it: nobody was told of it, it is cut."""
    content = bytearray(victim.log.read_bytes())
    *_, last, mark = records(victim.log)
    half = last + (mark - last) // 2
    content[half:] = bytes(len(content) - half)
    victim.log.write_bytes(content)
    victim.starts()


def rot_in_the_log(victim: Victim, home: Home) -> None:
    """A bit inside what was synced: nothing is cut, and the node learns everything anew."""
    places = records(victim.log)
    victim.altered(victim.log, places[len(places) // 2] + 70)
    told = victim.refuses()
    assert "the log is damaged" in told
    assert victim.refuses() == told, "a refused start changes nothing"
    victim.obey(told)
    victim.starts()


def rotten_snapshot(victim: Victim, home: Home) -> None:
    """All of them: with one of two left the log reaches back to it."""
    victim.grow()
    for snapshot in home.snapshots.glob("*.snapshot"):
        victim.altered(snapshot, -20)
    told = victim.refuses()
    assert "snapshot" in told
    victim.obey(told)
    victim.starts()


def rotten_boot(victim: Victim, home: Home) -> None:
    victim.altered(home.boot, 9)
    told = victim.refuses()
    assert "counter of starts is damaged" in told
    victim.obey(told)
    victim.starts()


def rotten_mesh(victim: Victim, home: Home) -> None:
    """With a log it is made anew; without one, a new token brings the same node back."""
    victim.altered(home.mesh, 40)
    victim.starts()
    victim.altered(home.mesh, 40)
    shutil.move(home.log, tempfile.mkdtemp(dir=victim.aside))
    told = victim.refuses()
    assert "remove it, and join this home again" in told
    home.mesh.unlink()
    done = victim.node.join(victim.mesh.token())
    assert done.status == 0, done.err
    assert len(victim.first.client.get("/v1/nodes")["nodes"]) == 3
    victim.node.kill_daemon()
    victim.starts()


def rotten_ports(victim: Victim, home: Home) -> None:
    home.ports.write_text('{"mesh": "127.0.0.1:6x00", "http": 5}')
    victim.starts()


def rotten_key(victim: Victim, home: Home) -> None:
    """The one file that is nowhere else: refused, never replaced."""
    pem = home.identity / "node.pem"
    whole = pem.read_bytes()
    for at in (60, len(whole) - 60):
        victim.altered(pem, at)
        assert "restore it from a backup" in victim.refuses()
        pem.write_bytes(whole)
    pem.unlink()
    assert "restore it from a backup" in victim.refuses()
    assert not pem.exists()
    pem.write_bytes(whole)
    victim.starts()


# --- power cut ------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.deadline(150)
def test_a_power_cut_of_all_nodes_at_once_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    if not mounts.PowerDisk.works():
        pytest.skip("needs root, loop devices and mkfs.ext4")
    disks = [mounts.PowerDisk(folder / f"n{number}") for number in (1, 2, 3)]
    try:
        for disk in disks:
            disk.make(64 << 20)
        with cluster(folder) as mesh:
            nodes = mesh.start(3)
            kept = Kept()
            writer = threading.Thread(target=kept.add_until_it_dies, args=(nodes[0], 10_000))
            writer.start()
            wait_until("some were acknowledged", lambda: len(kept.tokens) >= 10)
            pids = [pid for node in nodes if (pid := node.pid) is not None]
            for disk in disks:
                disk.cut()
            for pid in pids:
                with suppress(ProcessLookupError):  # its disk failed, and it ended by itself
                    os.kill(pid, signal.SIGKILL)
            writer.join(timeout=60)
            assert not writer.is_alive()
            for disk in disks:
                disk.restore()
            for node in nodes:
                done = node.up()
                assert done.status == 0, done.err
            wait_until("all see all", lambda: all(mesh.alive(node) == 3 for node in nodes))
            for node in nodes:
                serves(node, kept)
    finally:
        for disk in disks:
            disk.remove()


# --- parts ----------------------------------------------------------------------------------------------------


def serves(node: Daemon, kept: Kept) -> None:
    """It decides again, and has what was promised, here and by the leader's word."""
    wait_until(f"{node.name} has a quorum", lambda: node.status()["quorum"]["has_quorum"])
    wait_until(f"{node.name} has everything", lambda: kept.all_in(node))


def deploy(node: Daemon, folder: Path, release: str) -> Done:
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "release.txt").write_text(release)
    manifest = folder / "app.yaml"
    command = "exec python3 -m http.server --bind 127.0.0.1 $PORT"
    needs = "health: {interval: 1s}\nresources: {disk: 8Mi}\n"
    manifest.write_text(f"name: web\nsource: ./source\ncommand: {command}\n{needs}")
    return node.run("deploy", "--manifest", str(manifest))


def deploy_web(node: Daemon, folder: Path) -> None:
    done = deploy(node, folder, "first")
    assert done.status == 0, done.err
    assert node.get("web", "/release.txt")[2] == b"first"
