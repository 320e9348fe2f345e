"""Archives that lie: nothing leaves the folder, nothing is left behind, nothing is unbounded (attack 36)."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import FailedError, FreecloudError
from scheduler.archive import Limits, extract


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def zipped(*members: tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = method
            archive.writestr(info, content)
    return packed.getvalue()


def unpack(content: bytes, folder: Path, limits: Limits | None = None) -> int:
    packed = folder.with_suffix(".packed")
    packed.write_bytes(content)
    with packed.open("rb") as archive:
        return extract(archive, folder, limits or Limits())


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LONG = "a/" * 3 + "b" * 120 + "/" + "c" * 120


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_files_and_folders_are_unpacked_with_their_execute_bit_alone(form: str, tmp_path: Path) -> None:
    if form == "tar":
        content = tar(
            (entry("d", tarfile.DIRTYPE, mode=0o777), b""),
            (entry("d/run.sh", mode=0o4777), b"#!"),
            (entry("./app.py", mode=0o600), b"x"),
            (entry(LONG), b"long"),
        )
    else:
        content = zipped(("d/", b"", 0o40777), ("d/run.sh", b"#!", 0o104777), ("app.py", b"x", 0), (LONG, b"long", 0))
    assert unpack(content, tmp_path / "app") == 3
    assert tree(tmp_path / "app") == {"d/run.sh": b"#!", "app.py": b"x", LONG: b"long"}
    assert stat.S_IMODE((tmp_path / "app/d/run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "app/app.py").stat().st_mode) == 0o644


def header_bomb() -> bytes:
    """A long name of 64 MiB: tarfile would read it whole."""
    info = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = 64 * 1024 * 1024
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size) + bytes(1024))


def zip_with_large_directory() -> bytes:
    content = bytearray(zipped(("a", b"", 0)))
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 16] = (200 * 1024 * 1024).to_bytes(4, "little")
    return bytes(content)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "absolute": lambda: tar((entry("/etc/x"), b"x")),
    "parent": lambda: tar((entry("../x"), b"x")),
    "parent within": lambda: tar((entry("a/../../x"), b"x")),
    "symlink": lambda: tar((entry("a", tarfile.SYMTYPE, "/etc"), b"")),
    "through a symlink": lambda: tar((entry("a", tarfile.SYMTYPE, ".."), b""), (entry("a/x"), b"x")),
    "hard link": lambda: tar((entry("a", tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "fifo": lambda: tar((entry("a", tarfile.FIFOTYPE), b"")),
    "character device": lambda: tar((entry("a", tarfile.CHRTYPE), b"")),
    "block device": lambda: tar((entry("a", tarfile.BLKTYPE), b"")),
    "unknown type": lambda: tar((entry("a", b"Q"), b"")),
    "sparse": lambda: gzip.compress(entry("a", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT) + bytes(1024)),
    "twice": lambda: tar((entry("a"), b"1"), (entry("a"), b"2")),
    "twice by another spelling": lambda: tar((entry("a/b"), b"1"), (entry("a/./b"), b"2")),
    "file, then folder": lambda: tar((entry("a"), b"1"), (entry("a/b"), b"2")),
    "folder, then file": lambda: tar((entry("a", tarfile.DIRTYPE), b""), (entry("a"), b"2")),
    "backslashes": lambda: tar((entry("a\\..\\b"), b"x")),
    "no name": lambda: tar((entry("."), b"x")),
    "too deep": lambda: tar((entry("a/" * 40 + "b"), b"x")),
    "name too long": lambda: tar((entry("a" * 256), b"x")),
    "header bomb": header_bomb,
    "ratio bomb": lambda: tar((entry("zeros"), bytes(64 * 1024 * 1024))),
    "cut off": lambda: tar((entry("a"), bytes(range(256)) * 4096))[:-200],
    "damaged": lambda: tar((entry("a"), b"x"))[:20] + b"\xff" * 20,
    "plain tar": lambda: gzip.decompress(tar((entry("a"), b"x"))),
    "empty": lambda: b"",
    "zip: parent": lambda: zipped(("../x", b"x", 0)),
    "zip: absolute": lambda: zipped(("/x", b"x", 0)),
    "zip: symlink": lambda: zipped(("a", b"/etc", stat.S_IFLNK | 0o777)),
    "zip: device": lambda: zipped(("a", b"", stat.S_IFCHR | 0o777)),
    "zip: bomb": lambda: zipped(("zeros", bytes(64 * 1024 * 1024), 0)),
    "zip: lzma": lambda: zipped(("a", b"x", 0), method=zipfile.ZIP_LZMA),
    "zip: directory bomb": zip_with_large_directory,
    "zip: file, then folder": lambda: zipped(("a", b"1", 0), ("a/b", b"2", 0)),
    "zip: cut off": lambda: zipped(("a", b"x" * 1000, 0))[:-30],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(FreecloudError):
        unpack(HOSTILE[case](), inside / "app")
    assert [path.name for path in inside.iterdir()] == ["app.packed"]
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_the_number_of_entries_and_bytes_is_bounded(tmp_path: Path) -> None:
    content = tar(*((entry(str(number)), b"x" * 100) for number in range(5)))
    assert unpack(content, tmp_path / "a", Limits(entries_max=5, bytes_max=500)) == 5
    for limits in (Limits(entries_max=4), Limits(bytes_max=499)):
        with pytest.raises(FreecloudError, match=r"more than|unpacks to"):
            unpack(content, tmp_path / "b", limits)


def test_a_folder_that_was_there_is_neither_used_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/mine").write_text("x")
    with pytest.raises(FailedError):
        unpack(tar((entry("a"), b"x")), tmp_path / "app")
    assert (tmp_path / "app/mine").read_text() == "x"


GOOD = (tar((entry("d/a"), b"hello"), (entry("b"), b"x" * 300)), zipped(("d/a", b"hello", 0), ("b", b"x" * 300, 0)))


@given(st.sampled_from(GOOD), st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_ends_in_an_error_of_ours_or_in_files_within_the_folder(good: bytes, data: st.DataObject) -> None:
    content = bytearray(good if data.draw(st.booleans()) or good[:2] == b"PK" else gzip.decompress(good))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    start = bytes(content[:2])
    wrapped = bytes(content) if start in (b"PK", b"\x1f\x8b") else gzip.compress(bytes(content))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            unpack(wrapped, folder / "app")
        except FreecloudError:
            assert not (folder / "app").exists()
        assert {path.name for path in folder.iterdir()} <= {"app", "app.packed"}
