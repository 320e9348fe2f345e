"""Done when, line 11, what a person sees: a narrow terminal, a pipe, a poor locale, help, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.layout import width
from cli.main import COMMANDS, all_parsers
from tests.e2e.cluster import Cluster, Daemon, freecloud, wait_until
from tests.e2e.terminal import in_terminal

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "whereami" / "app.yaml"
NARROW = 60
PARSERS = list(all_parsers())
COMMAND = f"{sys.executable} -m cli.main"

SHOWING = (
    ["status"],
    ["nodes", "list"],
    ["nodes", "show", "n1"],
    ["nodes", "why", "n3"],
    ["apps", "list"],
    ["apps", "show", "whereami"],
    ["apps", "why", "whereami"],
    ["events"],
    ["jobs"],
    ["secrets", "list"],
    ["auth", "tokens", "list"],
    ["doctor"],
    ["version"],
)
"""Every command that shows something and changes nothing."""


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    """A node of a mesh of three that has something of everything to show; one of them went away."""
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made = Cluster(folder)
    try:
        first, _, third = made.start(3, "--zone", "the-flat-upstairs-behind-the-kitchen", "--label", "disk=ssd")
        for words, typed in (
            (["deploy", "--manifest", str(EXAMPLE)], ""),
            (["secrets", "set", "A_RATHER_LONG_NAME_OF_A_SECRET"], "value"),
            (["auth", "tokens", "create", "continuous-integration", "--scope", "deploy", "--scope", "data"], ""),
        ):
            done = first.run(*words, stdin=typed)
            assert done.status == 0, done.err
        third.destroy()
        wait_until("it is noticed", lambda: "down" in first.run("nodes", "show", "n3").out)
        wait_until("all is well", lambda: first.client.get("/v1/apps/whereami")["healthy"] == 3)
        yield first
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("words", SHOWING, ids=" ".join)
def test_on_a_terminal_of_60_columns_nothing_is_wider_and_nothing_is_cut(words: list[str], node: Daemon) -> None:
    shown = in_terminal(*words, columns=NARROW, home=node.home)
    assert not [line for line in shown.lines if width(line) > NARROW], shown.raw
    assert "…" not in shown.raw
    wide = in_terminal(*words, columns=400, home=node.home)
    assert shown.status == wide.status
    if words[0] not in ("status", "doctor", "nodes", "apps"):  # these tell ages and load, which change meanwhile
        assert sorted(told(shown.raw)) == sorted(told(wide.raw))
    for word in told(wide.raw):
        if not any(char.isdigit() for char in word) and word.isalpha() and word.islower() and len(word) > 3:
            assert word in shown.raw, word


def told(raw: str) -> list[str]:
    """The words of a screen, without the names of columns, which may stand above or before their values."""
    text = re.sub(r"\x1b\[[0-9;]*[mK]", "", raw)
    return [word for word in text.split() if not word.endswith(":") and not word.isupper()]


@pytest.mark.parametrize("words", [words for words, _ in PARSERS], ids=" ".join)
def test_every_help_has_an_example_that_parses_and_fits_60_columns(words: tuple[str, ...]) -> None:
    shown = in_terminal(*words, "--help", columns=NARROW)
    assert shown.status == 0, shown.raw
    assert not [line for line in shown.lines if width(line) > NARROW], shown.raw
    example = next(line for at, line in enumerate(shown.lines) if at and shown.lines[at - 1] == "example:").strip()
    assert "freecloud" in example
    for part in example.split("|"):
        typed = re.sub(r'^eval "\$\(|\)"$|<.*$', "", part.strip()).split()
        typed = typed[typed.index("freecloud") :]
        assert words[0] in typed or example.startswith("freecloud invite |"), example
        parser = max(
            ((path, parser) for path, parser in PARSERS if tuple(typed[1 : 1 + len(path)]) == path),
            key=lambda found: len(found[0]),
        )
        parser[1].parse(typed[1 + len(parser[0]) :])  # raises for a mistake


def test_the_overview_fits_60_columns_and_names_every_command() -> None:
    shown = in_terminal("--help", columns=NARROW)
    assert not [line for line in shown.lines if width(line) > NARROW]
    assert all(any(line.startswith(f"  {name} ") for line in shown.lines) for name in COMMANDS)
    assert in_terminal("help", "deploy").lines == in_terminal("deploy", "--help").lines


@pytest.mark.parametrize("words", SHOWING, ids=" ".join)
def test_into_a_pipe_there_are_no_colours_and_each_row_is_one_line(words: list[str], node: Daemon) -> None:
    done = node.run(*words)
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    if words == ["nodes", "list"]:
        assert [line.split()[0] for line in done.out.splitlines()] == ["NAME", "n1", "n2", "n3"]
    document = node.run(*words, "--json")
    assert "\x1b" not in document.out
    for line in document.out.splitlines() if words == ["events"] else [document.out]:
        json.loads(line)


def test_a_deploy_into_a_pipe_rewrites_no_line(node: Daemon) -> None:
    done = node.run("deploy", "--manifest", str(EXAMPLE))
    assert done.status == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.err
    shown = in_terminal("deploy", "--manifest", str(EXAMPLE), columns=NARROW, home=node.home)
    assert shown.status == 0
    assert "\r\x1b[K" in shown.raw, "a terminal is shown one line that is rewritten"


@pytest.mark.parametrize("words", [*SHOWING, ["--help"], ["deploy", "--help"], ["completion"]], ids=" ".join)
def test_a_reader_that_has_enough_ends_it_quietly(words: list[str], node: Daemon) -> None:
    line = f"{COMMAND} {' '.join(words)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = shell(line, node.home)
    assert "Traceback" not in done.stderr
    assert "pipe" not in done.stderr.lower()
    assert done.returncode in (0, 1), done.returncode  # doctor found something
    assert done.stdout.count("\n") <= 1
    closed = shell(f"{COMMAND} {' '.join(words)} >&-", node.home)
    assert "Traceback" not in closed.stderr
    full = shell(f"{COMMAND} {' '.join(words)} >/dev/full", node.home)
    if words != ["jobs"]:  # which has no result to write here
        assert (full.returncode, full.stderr.count("No space left")) == (1, 1), full.stderr


def shell(line: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {key: value for key, value in os.environ.items() if not key.startswith("FREECLOUD_")}
    given |= {"FREECLOUD_HOME": str(home), **environment}
    command = ["bash", "--norc", "-c", line]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, env=given, check=False)


def test_no_color_and_a_dumb_terminal_are_heard(node: Daemon) -> None:
    words = ("nodes", "list")
    assert "\x1b[" in in_terminal(*words, home=node.home).raw
    for ruling in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in in_terminal(*words, home=node.home, environment=ruling).raw


@pytest.mark.parametrize(
    "ruling",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=str,
)
def test_a_locale_without_our_characters_gets_plain_ones(ruling: dict[str, str], node: Daemon) -> None:
    for words in (["stauts"], ["status"], ["apps", "show", "nothing"], ["doctor"], ["nodes", "show", "Küche"]):
        done = shell(f"{COMMAND} {' '.join(words)}", node.home, **ruling)
        assert "Traceback" not in done.stderr
        assert "codec" not in done.stderr
        assert done.returncode in (0, 1, 2, 3)
        if len(ruling) == 3 or "PYTHONIOENCODING" in ruling:
            assert "—" not in done.stdout + done.stderr
            assert "\\u2014" not in done.stdout + done.stderr
    told_in_json = shell(f"{COMMAND} status --json", node.home, **ruling)
    assert json.loads(told_in_json.stdout)["node"]["name"] == "n1"


COMPLETE = """\
eval "$(freecloud completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _freecloud freecloud "${!#}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(node: Daemon | None, *words: str, folder: Path) -> set[str]:
    """What a real bash offers for the last of these words."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    command = bin_folder / "freecloud"
    command.write_text(f'#!/bin/sh\nexec {COMMAND} "$@"\n')
    command.chmod(0o755)
    given = {key: value for key, value in os.environ.items() if not key.startswith("FREECLOUD_")}
    given |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())}
    given |= {"FREECLOUD_HOME": str(node.home if node is not None else folder)}
    command_line = ["bash", "--norc", "-c", COMPLETE, "bash", "freecloud", *words]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=60, env=given, cwd=folder, check=True)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


def test_completion_in_bash_offers_commands_verbs_flags_and_names(node: Daemon, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("x")
    for words, expected in (
        (("",), set(COMMANDS)),
        (("de",), {"deploy", "demo"} & {name for name in COMMANDS if name.startswith("de")}),
        (("nodes", ""), {"list", "show", "why", "remove", "drain", "label", "add", "--help"}),
        (("apps", "scale", "--rep"), {"--replicas"}),
        (("apps", "scale", ""), {"whereami", "--replicas", "--json", "--home", "--node", "--help"}),
        (("apps", "show", "w"), {"whereami"}),
        (("apps", "logs", "whereami", "--replica", "whereami-"), replicas(node)),
        (("nodes", "show", ""), {"n1", "n2", "n3", "--json", "--home", "--node", "--help"}),
        (("nodes", "drain", "n2", "--o"), {"--off"}),
        (("secrets", "rm", "A"), {"A_RATHER_LONG_NAME_OF_A_SECRET"}),
        (("auth", "tokens", "create", "x", "--scope", ""), {"read", "deploy", "data", "admin"}),
        (("deploy", "--manifest", "app"), {"app.yaml"}),
        (("completion", ""), {"bash", "--help"}),
        (("frobnicate", ""), set()),
    ):
        assert completed(node, *words, folder=tmp_path) == expected, words
    assert completed(node, "nodes", "show", "--home", str(tmp_path), "n", folder=tmp_path) == set()
    assert completed(None, "apps", "show", "w", folder=tmp_path) == set(), "no daemon: nothing, at once, and no noise"


def replicas(node: Daemon) -> set[str]:
    return {replica["id"] for replica in node.client.get("/v1/apps/whereami")["placed"]}


def test_what_a_person_types_at_a_question_is_an_answer(node: Daemon) -> None:
    shown = in_terminal("secrets", "set", "TYPED", home=node.home, prompt="TYPED", typed="hidden-value\n")
    assert shown.status == 0, shown.raw
    assert "hidden" not in shown.raw
    assert "TYPED" in freecloud("secrets", "list", home=node.home).out
