"""`install: requirements.txt`, with the real pip and a package that comes with the source: no network is needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import trio

from gossip.record import ReplicaHealth
from scheduler.dependencies import MARK, prune_venvs, venv_key
from scheduler.runtimes.logs import log_path, read_tail
from scheduler.runtimes.sandbox import Rung
from scheduler.runtimes.sandbox_probe import probe_rung
from tests.unit.scheduler_runtime.node import MANIFEST, SERVER, LocalLedger, Node, Sources, get
from tests.unit.scheduler_runtime.rungs import GROUPS

APP = "import greeting\nopen('greeted', 'w').write(greeting.WORD)\n" + SERVER


class WheelSources(Sources):
    """A source that brings its own package."""

    async def unpack(self, bundle: str, folder: Path, *, deadline: float) -> None:
        await super().unpack(bundle, folder, deadline=deadline)
        (folder / "vendor").mkdir()
        with zipfile.ZipFile(folder / "vendor" / "greeting-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("greeting.py", "WORD = 'hello'\n")
            wheel.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
            wheel.writestr(
                "greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr("greeting-1.0.dist-info/RECORD", "")


@pytest.fixture
def sources() -> Sources:
    made = WheelSources()
    made.bundles["good"] = {"app.py": APP, "requirements.txt": "--no-index\n--find-links vendor\ngreeting==1.0\n"}
    made.bundles["bad"] = {"app.py": APP, "requirements.txt": "--no-index\n--find-links vendor\nnowhere-to-be-found\n"}
    return made


@pytest.mark.parametrize("which", [Rung.BUBBLEWRAP, Rung.LANDLOCK], ids=lambda which: which.value)
async def test_dependencies_are_installed_once_and_used_by_every_replica(
    open_home: Path, sources: Sources, which: Rung
) -> None:
    (open_home / "apps").mkdir()
    sandbox, why = await probe_rung(which, open_home / "apps", seed="test", groups=GROUPS)
    if sandbox is None:
        pytest.skip(f"no {which.value} on this machine: {why}")
    ledger = LocalLedger()
    async with Node(open_home, ledger, sources, sandbox=sandbox).running() as node:
        ledger.deploy(MANIFEST + "install: requirements.txt\n", "good")
        ledger.assign("web", 1)
        await node.until_healthy("web-1")
        [venv] = (open_home / "venvs").iterdir()
        made = (venv / MARK).stat().st_mtime_ns
        ledger.assign("web", 1)
        report = await node.until_healthy("web-2")
        assert await get(report.port, "/")
        assert (venv / MARK).stat().st_mtime_ns == made
        assert (open_home / "apps" / "web-2" / "work" / "greeted").read_text() == "hello"
        assert venv.stat().st_uid == open_home.stat().st_uid
        await node.runner.stop_all(deadline=trio.current_time() + 30)


async def test_a_failed_installation_is_a_reason_and_its_words_are_in_the_log(
    tmp_path: Path, sources: Sources
) -> None:
    ledger = LocalLedger()
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST + "install: requirements.txt\n", "bad")
        ledger.assign("web", 1)
        reports = await node.until(lambda reports: bool(reports) and reports[0].health is ReplicaHealth.BACKING_OFF)
        assert reports[0].detail.startswith("dependencies could not be installed: exit status 1")
        await node.runner.stop_all(deadline=trio.current_time() + 30)
    records, _ = read_tail(log_path(tmp_path / "logs", "web", "web-1"), 100, 1 << 20)
    assert any("nowhere-to-be-found" in record.text for record in records)
    assert not any((venv / MARK).exists() for venv in (tmp_path / "venvs").iterdir())


async def test_a_requirements_file_outside_the_source_is_refused(tmp_path: Path) -> None:
    sources = Sources()
    sources.bundles["source"] = {"app.py": SERVER}
    (tmp_path / "secret.txt").write_text("secret")
    ledger = LocalLedger()
    async with Node(tmp_path, ledger, sources).running() as node:
        ledger.deploy(MANIFEST + "install: requirements.txt\n", "source")
        ledger.assign("web", 1)
        reports = await node.until(lambda reports: bool(reports) and reports[0].health is ReplicaHealth.BACKING_OFF)
        assert reports[0].detail.startswith("the source of web has no file requirements.txt")
        await node.runner.stop_all(deadline=trio.current_time() + 30)


def test_the_same_requirements_share_an_environment_unless_they_refer_to_files() -> None:
    plain = b"flask==3.0\n"
    assert venv_key(plain, "bundle-a", "/usr/bin/python3") == venv_key(plain, "bundle-b", "/usr/bin/python3")
    assert venv_key(plain, "a", "/usr/bin/python3") != venv_key(b"flask==3.1\n", "a", "/usr/bin/python3")
    assert venv_key(plain, "a", "/usr/bin/python3") != venv_key(plain, "a", "/usr/local/bin/python3")
    for refers in (b"-r more.txt\n", b"./vendor/x.whl\n", b"x\n-e .\n", b"x @ file:///srv/x\n", b"--find-links v\n"):
        assert venv_key(refers, "bundle-a", "python") != venv_key(refers, "bundle-b", "python")


def test_old_environments_go(tmp_path: Path) -> None:
    import os

    for number in range(5):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    prune_venvs(tmp_path, kept=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
