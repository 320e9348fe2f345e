"""Done when, line 11: whatever is typed wrongly, or stands in the way, is one line that says what to do.

Commands and flags are enumerated from the command's own parsers: a new one is held to all of this from its first day.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import COMMANDS, LATER, all_parsers
from cli.parsing import Parser, flags_of, verbs_of
from tests.e2e.cluster import Cluster, Daemon, Done, freecloud
from tests.e2e.terminal import in_terminal

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "whereami" / "app.yaml"
NARROW = 60
PARSERS = list(all_parsers())
LEAVES = [(words, parser) for words, parser in PARSERS if not verbs_of(parser)]

NEEDS_NO_DAEMON = {"up", "join", "doctor", "demo", "version", "completion"}
"""The only commands that do something without a daemon; each of them is tried by itself below or in another file."""

NOT_YET = {("nodes", "add"), ("auth", "login"), ("auth", "logout")}
"""Commands of the contract that say that they come later."""


def spelt(words: tuple[str, ...]) -> str:
    return " ".join(words)


def one_line(done: Done, status: int, *says: str) -> None:
    """The whole contract of a failure: nothing on stdout, one line on stderr, the exit status, what to do."""
    assert done.status == status, done
    assert done.out == "", done
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("freecloud: "), done.err
    assert "Traceback" not in done.err
    for text in says:
        assert text in done.err, done.err


def arguments_of(parser: Parser, folder: Path) -> list[str]:
    """What the parser asks for at least, as somebody would type it."""
    manifest = folder / "app.yaml"
    manifest.write_text("name: web\nsource: .\ncommand: x\n")
    words, last = [], []
    for action in parser._actions:
        if not action.required:
            continue
        value = str(manifest) if action.metavar == "FILE" else "2" if action.type is int else "nothing"
        value = str(next(iter(action.choices))) if action.choices else value
        if action.option_strings:
            words += [action.option_strings[-1], value]
        else:
            last.append(value)
    return words + last


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    """A node with an app on it."""
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made = Cluster(folder)
    try:
        (first,) = made.start(1, "--zone", "the-flat-upstairs")
        done = first.run("deploy", "--manifest", str(EXAMPLE))
        assert done.status == 0, done.err
        yield first
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


# --- homes and ports ----------------------------------------------------------------------------------------------


def test_up_twice_in_one_home_says_who_runs_there_and_what_to_do(node: Daemon) -> None:
    pid = node.pid
    one_line(node.run("up", "--detach"), 4, str(pid), "freecloud down")
    one_line(node.run("up"), 4, str(pid), "freecloud down")
    one_line(node.run("join", "-", "--detach", stdin=node.run("invite").out), 4, str(pid), "freecloud down")
    assert node.pid == pid
    assert node.status()["quorum"]["has_quorum"]


@pytest.mark.parametrize("flag", ["--listen", "--http", "--ingress"])
def test_a_port_that_was_named_and_is_taken_is_told_with_its_flag(flag: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for detached in (["--detach"], []):
            done = freecloud("up", flag, address, *detached, home=tmp_path / "home")
            one_line(done, 1, address.partition(":")[2], flag)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nowhere", "HOST:PORT"),
        ("127.0.0.1:99999", "port"),
        ("127.0.0.1:http", "port"),
        (":6700", "HOST:PORT"),
        ("0.0.0.0:0", "--advertise"),
        ("[::]:6700", "--advertise"),
        ("192.0.2.1:6700", "192.0.2.1"),
        ("no-such-host.invalid:6700", "no-such-host.invalid"),
    ],
)
def test_an_address_that_cannot_be_listened_at(address: str, says: str, tmp_path: Path) -> None:
    done = freecloud("up", "--detach", "--listen", address, home=tmp_path / "home")
    one_line(done, 2, says, "--listen")


@pytest.mark.parametrize(("words", "parser"), LEAVES, ids=[spelt(words) for words, _ in LEAVES])
def test_a_daemon_that_is_not_running(words: tuple[str, ...], parser: Parser, tmp_path: Path) -> None:
    if words[0] in NEEDS_NO_DAEMON:
        return
    home = tmp_path / "nowhere"
    done = freecloud(*words, *arguments_of(parser, tmp_path), home=home, stdin="value\n")
    if words in NOT_YET:
        one_line(done, 2, "not in this version")
    else:
        one_line(done, 5, str(home), "freecloud up")
    assert not home.exists(), "who only asks makes no home"


def test_doctor_without_a_home_says_what_is_missing(tmp_path: Path) -> None:
    done = freecloud("doctor", home=tmp_path / "nowhere")
    assert (done.status, done.err) == (1, "")
    assert "freecloud up" in done.out
    assert "Traceback" not in done.out


def test_a_home_that_is_a_file_or_cannot_be_made_or_is_too_long(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for home in (file, file / "below", Path("/proc/nowhere")):
        one_line(freecloud("up", "--detach", home=home), 2, str(home), "--home")
        one_line(freecloud("up", home=home), 2, str(home), "--home")
    one_line(freecloud("up", "--detach", home=tmp_path / ("x" * 120)), 2, "too long", "--home")
    assert file.read_text() == "x"


def as_another(*words: str, home: Path) -> Done:
    """Run the command in a child that has become the user `nobody`; the interpreter is already loaded."""
    from cli.main import main

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            status = 99
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.setgid(65534)
                os.setuid(65534)
                os.environ["FREECLOUD_HOME"] = str(home)
                sys.stdout, sys.stderr = out, err
                status = main(words)
                out.flush()
                err.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read() for file in (out, err)]
    return Done(status, *texts)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: another user's home can be tried by root only")
def test_a_home_of_another_user_is_told_and_left_alone(node: Daemon) -> None:
    closed = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    try:
        one_line(as_another("up", "--detach", home=closed), 2, str(closed), "--home")
        one_line(as_another("up", "--detach", home=closed / "below"), 2, str(closed / "below"), "--home")
        one_line(as_another("status", home=node.home), 5, "another user")
        one_line(as_another("down", home=node.home), 5, "another user")
        assert list(closed.iterdir()) == []
        assert node.status()["quorum"]["has_quorum"]
    finally:
        closed.rmdir()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = [", "TOML"),
        ("colour = 'red'", "colour"),
        ("name = 'Kitchen!'", "Kitchen!"),
        ("listen = 'x'", "listen"),
        ("labels = ['x']", "label"),
        ("unsandboxed = 'perhaps'", "perhaps"),
        ('zone = "\\u001b[31m"', "zone"),
        ("\xff", "freecloud.toml"),
    ],
)
def test_a_wrong_setting_is_told_with_its_name(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "freecloud.toml").write_bytes(text.encode("latin-1"))
    one_line(freecloud("up", "--detach", home=tmp_path), 2, says)


# --- words --------------------------------------------------------------------------------------------------------


def misspelt(word: str) -> str:
    """The word with two letters of its middle swapped, or one doubled."""
    for at in range(len(word) - 2, 0, -1):
        if word[at] != word[at + 1 :][:1] and word[at + 1 :]:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word + word[-1]


def test_every_misspelt_command_is_told_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    from cli.main import main

    for words, parser in [((), None), *PARSERS]:
        known = list(verbs_of(parser)) if parser is not None else list(COMMANDS)
        for verb in known:
            wrong = misspelt(verb)
            if wrong in known or wrong in LATER:
                continue
            status = main([*words, wrong])
            told = capsys.readouterr()
            one_line(Done(status, told.out, told.err), 2, f"did you mean `{spelt(('freecloud', *words, verb))}`?")


def test_every_misspelt_flag_is_told_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    from cli.main import main

    for words, parser in PARSERS:
        known = flags_of(parser)
        for flag in known:
            wrong = "--" + misspelt(flag[2:])
            if wrong in known:
                continue
            status = main([*words, wrong])
            told = capsys.readouterr()
            one_line(Done(status, told.out, told.err), 2, wrong, f"did you mean `{flag}`?")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([""], "freecloud --help"),
        (["frobnicate"], "freecloud --help"),
        (["--home", "/x", "status"], "flags follow it"),
        (["status", "now"], "freecloud status --help"),
        (["status", "--home"], "--home"),
        (["nodes"], "VERB"),
        (["nodes", "show"], "name"),
        (["apps", "scale", "web"], "--replicas"),
        (["apps", "scale", "web", "--replicas", "-1x"], "--replicas"),
        (["apps", "scale", "web", "--replicas", "9" * 5000], "--replicas"),
        (["apps", "exec", "web"], "COMMAND"),
        (["apps", "rollback", "web", "--to", "first"], "--to"),
        (["auth", "tokens", "create", "x", "--scope", "raed"], "did you mean `read`"),
        (["auth", "tokens", "create", "x", "--scope", "read", "--expires", "never"], "90s, 10m"),
        (["invite", "--uses", "two"], "--uses"),
        (["invite", "--expires", "1y"], "90s, 10m"),
        (["invite", "--untrusted"], "not in this version"),
        (["deploy"], "--manifest"),
        (["deploy", "--manifest", "/nowhere/app.yaml"], "/nowhere/app.yaml"),
        (["deploy", "--manifest", "/"], "cannot read /"),
        (["completion", "fish"], "bash"),
        (["join"], "TOKEN"),
        (["join", ""], "no token"),
        (["up", "--s3", "127.0.0.1:1"], "not in this version"),
        (["up", "--name", "Küche"], "--name"),
        (["up", "--label", "disk"], "key=value"),
        (["demo", "--folder", "/proc"], "--folder"),
        (["db", "query", "select 1"], "not in this version"),
        (["status", "--node", "somewhere"], "FREECLOUD_TOKEN"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_exit_2_and_says_what_can(words: list[str], says: str, tmp_path: Path) -> None:
    one_line(freecloud(*words, home=tmp_path / "home"), 2, says)


def test_a_token_that_is_none_is_exit_4_or_2_and_is_not_shown(tmp_path: Path) -> None:
    for token in ("nonsense", "fc1_nonsense", "fc1_" + "a" * 5000, "\x1b[31mred"):
        done = freecloud("join", "-", "--detach", home=tmp_path / "home", stdin=token + "\n")
        one_line(done, 4)
        assert token not in done.err
    one_line(freecloud("join", "-", "--detach", home=tmp_path / "home", stdin=""), 2, "freecloud invite")


def test_nothing_at_all_is_the_overview_and_exit_2() -> None:
    done = freecloud()
    assert (done.status, done.err) == (2, "")
    assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["apps", "show", "nothing"], 3),
        (["apps", "why", "nothing"], 3),
        (["apps", "logs", "nothing"], 3),
        (["apps", "remove", "nothing"], 3),
        (["apps", "rollback", "nothing"], 3),
        (["apps", "exec", "nothing", "--", "env"], 3),
        (["apps", "scale", "nothing", "--replicas", "2"], 3),
        (["apps", "scale", "whereami", "--replicas", "-1"], 2),
        (["apps", "scale", "whereami", "--replicas", "1000000"], 2),
        (["apps", "rollback", "whereami", "--to", "99"], 3),
        (["apps", "logs", "whereami", "--replica", "nothing"], 3),
        (["apps", "exec", "whereami", "--replica", "nothing", "--", "env"], 3),
        (["apps", "show", "../../v1/status"], 3),
        (["apps", "show", "\x1b[31m"], 3),
        (["apps", "show", ""], 3),
        (["nodes", "show", "nobody"], 3),
        (["nodes", "why", "nobody"], 3),
        (["nodes", "drain", "nobody"], 3),
        (["nodes", "remove", "nobody"], 3),
        (["nodes", "label", "nobody", "a=b"], 3),
        (["nodes", "label", "n1", "a"], 2),
        (["nodes", "remove", "n1"], 4),
        (["secrets", "rm", "NOTHING"], 3),
        (["secrets", "set", "not-a-name!"], 2),
        (["auth", "tokens", "revoke", "nothing"], 3),
        (["invite", "--uses", "0"], 2),
        (["invite", "--uses", "101"], 2),
        (["invite", "--expires", "99d"], 2),
        (["invite", "--label", "x"], 2),
        (["recover"], 4),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_the_mesh_does_not_have_or_allow(words: list[str], status: int, node: Daemon) -> None:
    done = node.run(*words, stdin="value\n")
    if words == ["recover"]:
        done = Done(done.status, "", done.err)  # it shows the survivors before it says that nothing is to be done
        done = Done(done.status, "", done.err.splitlines()[-1] + "\n")
    one_line(done, status)
    assert "\x1b" not in done.err


WRONG_MANIFESTS: dict[str, tuple[int, int, str]] = {
    "name: [": (1, 8, "YAML"),
    "command: x": (1, 1, "name"),
    "name: Web\nsource: .\ncommand: x": (1, 7, "Web"),
    "name: web\nsource: .\ncommand: x\nreplicas: many": (4, 11, "replicas"),
    "name: web\nsource: .\ncommand: x\nreplicas: 100000": (4, 11, "replicas"),
    "name: web\nsource: .\ncommand: x\ncolour: red": (4, 1, "colour"),
    "name: web\nname: web\nsource: .\ncommand: x": (2, 1, "twice"),
    "name: web\nsource: .\ncommand: x\nresources: {memory: lots}": (4, 21, "memory"),
    "name: web\nsource: .\ncommand: x\nhealth: {interval: soon}": (4, 20, "interval"),
    "name: web\nsource: .\ncommand: x\nruntime: cobol": (4, 10, "cobol"),
    "name: web\nsource: .\ncommand: x\nenv: [a]": (4, 6, "env"),
    "- web": (1, 1, "app.yaml"),
    "name: web\nsource: .\ncommand: x\nreplica: 2": (4, 1, "replicas"),
    "name: web\nsource: .\ncommand: x\nenv: {A: *x}": (4, 10, "alias"),
    "name: web\nsource: .\ncommand: x\n\tenv: {}": (4, 1, "YAML"),
}


@pytest.mark.parametrize("text", WRONG_MANIFESTS, ids=lambda text: text.replace("\n", "|")[-30:])
def test_a_wrong_manifest_is_told_with_line_and_column(text: str, tmp_path: Path, node: Daemon) -> None:
    line, column, says = WRONG_MANIFESTS[text]
    path = tmp_path / "app.yaml"
    path.write_text(text)
    done = node.run("deploy", "--manifest", str(path))
    one_line(done, 2, f"{path}:{line}:{column}: ", says)
    shown = in_terminal("deploy", "--manifest", str(path), home=node.home)
    assert shown.status == 2
    at = next(number for number, part in enumerate(shown.lines) if part.strip() == "^")
    under = shown.lines[at - 1][shown.lines[at].index("^") :][:1]
    assert under == text.split("\n")[line - 1][column - 1 :][:1].expandtabs(1)
