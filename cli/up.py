"""`freecloud up` and `freecloud join`: become the daemon, or start it and return when it is ready."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from cli import output
from cli.options import home_of
from daemon.client import problem_to_error
from mesh.errors import FailedError, UsageError

READY_TIMEOUT_S = 60.0
FLAGS = ("name", "zone", "provider", "listen", "advertise", "http", "ingress")
LATER = {"s3": "the S3 endpoint", "sql": "the SQL endpoint"}


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    if name == "join":
        parser.add_argument("token", metavar="TOKEN", help='what `freecloud invite` printed; "-" reads it from stdin')
    parser.add_argument("--home", metavar="DIR", help="state directory (FREECLOUD_HOME)")
    parser.add_argument("--name", help="this node's name (default: the host's)")
    parser.add_argument("--zone", help="what fails together: a site, a host, a provider's region")
    parser.add_argument("--provider", help="who runs this machine")
    parser.add_argument("--label", action="append", metavar="K=V", dest="labels", help="for constraints in app.yaml")
    parser.add_argument("--listen", metavar="HOST:PORT", help="mesh port, TCP and UDP (127.0.0.1:6700)")
    parser.add_argument("--advertise", metavar="HOST:PORT", help="the address others reach it at")
    parser.add_argument("--http", metavar="HOST:PORT", help="API (127.0.0.1:6780)")
    parser.add_argument("--ingress", metavar="HOST:PORT", help="where apps are served (127.0.0.1:6781)")
    parser.add_argument("--s3", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--sql", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--unsandboxed", action="store_true", default=None, help="run apps even without any sandbox")
    parser.add_argument("--detach", action="store_true", help="return when it is ready")
    parser.add_argument("--json", action="store_true", help="with --detach: print the addresses as JSON")
    example = "freecloud up --detach" if name == "up" else "freecloud invite | ssh other freecloud join - --detach"
    parser.epilog = f"example:\n  {example}"
    parser.set_defaults(run=run, command=name)


def run(options: argparse.Namespace) -> int:
    for flag, subject in LATER.items():
        if getattr(options, flag) is not None:
            raise UsageError(f"--{flag} is not in this version", why=f"{subject} comes with a later one")
    token = _token(options)
    arguments = _daemon_arguments(options)
    if options.detach:
        return _detached(options, arguments, token)
    return _in_the_foreground(arguments, token)


def _token(options: argparse.Namespace) -> str:
    if options.command == "up":
        return ""
    text = sys.stdin.readline() if options.token == "-" else options.token
    if not text.strip():
        raise UsageError("no token was given", hint="paste what `freecloud invite` printed")
    return str(text.strip())


def _daemon_arguments(options: argparse.Namespace) -> list[str]:
    given = {"home": str(home_of(options))}
    given |= {flag: value for flag in FLAGS if (value := getattr(options, flag)) is not None}
    if options.labels:
        given["labels"] = ",".join(options.labels)
    if options.unsandboxed:
        given["unsandboxed"] = "true"
    return [f"--{name}={value}" for name, value in given.items()]


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "daemon", *arguments]


def _in_the_foreground(arguments: list[str], token: str) -> int:
    """Turn into the daemon, so that signals and memory are its own; the token goes by a pipe, never by argv."""
    if token:
        reader, writer = os.pipe()
        os.write(writer, token.encode() + b"\n")
        os.close(writer)
        os.set_inheritable(reader, True)
        arguments = [*arguments, f"--join-descriptor={reader}"]
    command = _command(arguments)
    os.execv(command[0], command)


def _detached(options: argparse.Namespace, arguments: list[str], token: str) -> int:
    home = Path(home_of(options))
    ready_reader, ready_writer = os.pipe()
    token_reader, token_writer = os.pipe()
    os.write(token_writer, token.encode() + b"\n")
    os.close(token_writer)
    inherited = [ready_writer] + ([token_reader] if token else [])
    arguments = [*arguments, f"--ready-descriptor={ready_writer}"]
    if token:
        arguments.append(f"--join-descriptor={token_reader}")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The home may have to let an app's own user pass through; what the daemon says is not for it.
        log = open(home / "daemon.log", "ab", opener=lambda path, flags: os.open(path, flags, 0o600))  # noqa: SIM115
    except OSError as error:
        raise UsageError(
            f"cannot use {home} as home", why=os.strerror(error.errno or 0), hint="choose another --home"
        ) from error
    with log:
        process = subprocess.Popen(
            _command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=inherited,
            start_new_session=True,
        )
    os.close(ready_writer)
    os.close(token_reader)
    return _wait_until_ready(options, process, ready_reader, home)


def _wait_until_ready(
    options: argparse.Namespace, process: subprocess.Popen[bytes], ready_reader: int, home: Path
) -> int:
    """Read the one line that the daemon writes when it serves, or when it gave up; end of file means it died."""
    import select

    ready, _, _ = select.select([ready_reader], [], [], READY_TIMEOUT_S)
    text = b""
    if ready:
        with os.fdopen(ready_reader, "rb") as reader:
            text = reader.readline()
    if not text:
        process.terminate()
        raise FailedError("the daemon did not start", hint=f"look at {home / 'daemon.log'}")
    document = json.loads(text)
    if "problem" in document:
        raise problem_to_error(document["problem"])
    if options.json:
        output.result(document)
        return 0
    for notice in document.get("notices", []):
        output.note(notice)
    output.fields({name: str(value) for name, value in document["addresses"].items()})
    return 0
