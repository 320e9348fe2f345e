"""The file that says where a home belongs: whole, or told as damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.home import Home
from daemon.membership import MeshFile, load_mesh_file, others_in, save_mesh_file
from daemon.standing import aside_hint
from mesh.errors import DamagedError
from mesh.names import MeshId

CONTENT = MeshFile(MeshId("m" * 26), 1, False, "n1", (), ())


def test_a_mesh_file_with_any_one_bit_altered_is_damaged_and_never_believed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert load_mesh_file(home) is None
    save_mesh_file(home.mesh, CONTENT)
    assert load_mesh_file(home) == CONTENT
    whole = home.mesh.read_bytes()
    for place in range(len(whole) * 8):
        altered = bytearray(whole)
        altered[place // 8] ^= 1 << place % 8
        home.mesh.write_bytes(altered)
        with pytest.raises(DamagedError, match="join this home again"):
            load_mesh_file(home)
    for length in range(len(whole)):
        home.mesh.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            load_mesh_file(home)


def test_what_to_do_about_a_damaged_memory_depends_on_whether_others_can_teach_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not others_in(home)
    save_mesh_file(home.mesh, CONTENT)
    assert not others_in(home)
    home.mesh.write_bytes(b"")
    assert not others_in(home)
    assert "log, snapshots, boot" in aside_hint(home, has_others=True)
    assert "from a backup" in aside_hint(home, has_others=False)
