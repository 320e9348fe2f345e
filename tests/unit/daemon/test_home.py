"""One folder, one daemon."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.home import Home, HomeLock, daemon_pid, load_ports, save_ports, write_atomically
from mesh.errors import DiskError, RefusedError, UsageError

HOLDER = """
import sys
from pathlib import Path
from daemon.home import Home, HomeLock
lock = HomeLock.take(Home(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_refused_and_told_who_runs(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert daemon_pid(home) == holder.pid
        with pytest.raises(RefusedError, match=str(holder.pid)):
            HomeLock.take(home)
        holder.kill()
        holder.wait()
        HomeLock.take(home).release()
        assert daemon_pid(home) is None


def test_the_home_is_its_owners_alone_but_for_the_way_to_an_apps_folder(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home.root, home.identity, home.apps)}
    assert modes == {"home": 0o700, "identity": 0o700, "apps": 0o711}


def test_a_home_that_cannot_be_made_and_one_with_too_long_a_path_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot use"):
        Home(tmp_path / "file" / "home").prepare()
    with pytest.raises(UsageError, match="too long"):
        Home(tmp_path / ("x" * 120)).prepare()


def test_ports_are_kept_and_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert load_ports(home) == {}
    save_ports(home, {"mesh": "127.0.0.1:6700"})
    assert load_ports(home) == {"mesh": "127.0.0.1:6700"}
    home.ports.write_text("{")
    assert load_ports(home) == {}


def test_a_replaced_file_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [other.name for other in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "content",
    [b"[]", b"\xff\xfe", b'{"mesh": 5}', b'{"mesh": "127.0.0.1:99999"}', b'{"mesh": "127.0.0.1:6x80"}'],
)
def test_a_kept_port_that_is_none_is_as_if_it_were_not_there(tmp_path: Path, content: bytes) -> None:
    home = Home(tmp_path)
    home.ports.write_bytes(content)
    assert load_ports(home) == {}


def test_a_file_that_cannot_be_replaced_says_so_as_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "folder.new").mkdir()
    with pytest.raises(DiskError, match="cannot write"):
        write_atomically(tmp_path / "folder", b"x")
