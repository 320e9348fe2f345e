"""The command as a user types it: one line that says what to do, the right exit status, never a traceback."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cli import output
from cli.completion import candidates
from cli.main import COMMANDS, main
from cli.options import duration_ms
from cli.pack import pack
from mesh.errors import EXIT_STATUS, Kind, UsageError, error_classes


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["frob"], 2, "no command"),
        (["stauts"], 2, "did you mean `freecloud status`"),
        (["db", "query"], 2, "not in this version"),
        (["deploy"], 2, "--manifest"),
        (["deploy", "--manifest", "/nowhere.yaml"], 2, "cannot read"),
        (["nodes", "lst"], 2, "did you mean `freecloud nodes list`"),
        (["status", "--frob"], 2, "--frob"),
        (["status"], 5, "freecloud up"),
        (["invite", "--untrusted"], 2, "not in this version"),
        (["invite", "--expires", "soon"], 2, "no duration"),
        (["nodes", "add", "--provider", "render"], 2, "not in this version"),
        (["up", "--s3", "127.0.0.1:1"], 2, "not in this version"),
    ],
)
def test_a_mistake_is_one_line_with_the_right_exit_status(
    words: list[str],
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FREECLOUD_HOME", str(tmp_path))
    monkeypatch.delenv("FREECLOUD_NODE", raising=False)
    assert main(words) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "example:" in capsys.readouterr().out


def test_every_kind_of_error_has_its_exit_status() -> None:
    assert set(EXIT_STATUS) == set(Kind)
    assert len({cls.code for cls in error_classes()}) == len(error_classes())


def test_completion_offers_commands_verbs_and_flags() -> None:
    assert "deploy" in candidates([])
    assert "why" in candidates(["nodes"])
    assert "--replicas" in candidates(["apps", "scale"])
    assert candidates(["frob"]) == []


def test_a_reader_that_went_away_makes_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m cli.main --help | head -n 1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90_000), ("10m", 600_000), ("1h", 3_600_000), ("7d", 604_800_000)]
)
def test_durations(text: str, expected: int) -> None:
    assert duration_ms(text) == expected


@pytest.mark.parametrize("text", ["", "h", "1", "1y", "-1h", "0s", "1.5h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        duration_ms(text)


def test_control_characters_never_reach_the_terminal() -> None:
    assert output.clean("a\x1b[31mb\rc\u202ed") == "a\\x1b[31mb\\x0dc\\u202ed"


def test_a_packed_folder_respects_gitignore_and_is_the_same_bytes_again(tmp_path: Path) -> None:
    for name, content in {
        "app.py": "x",
        ".gitignore": "*.log\n!keep.log\nbuild/\n",
        "a.log": "x",
        "keep.log": "x",
        "build/out": "x",
        "sub/.gitignore": "secret\n",
        "sub/secret": "x",
        "sub/open": "x",
        "__pycache__/a.pyc": "x",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    first, second = io.BytesIO(), io.BytesIO()
    assert pack(tmp_path, first) == pack(tmp_path, second)
    assert first.getvalue() == second.getvalue()
    first.seek(0)
    with tarfile.open(fileobj=first) as archive:
        assert sorted(archive.getnames()) == [".gitignore", "app.py", "keep.log", "sub/.gitignore", "sub/open"]


def test_a_link_in_the_source_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="link"):
        pack(tmp_path, io.BytesIO())
