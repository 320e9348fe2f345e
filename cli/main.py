"""`freecloud`: find the command, load only what it needs, run it, turn an error into one line and an exit status.

0 done   1 failed   2 wrong usage   3 not found   4 refused   5 no quorum or unreachable
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from cli.parsing import Parser, near, walk
from mesh.errors import FailedError, FreecloudError, UsageError

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("cli.up", "start this node; the first start makes a mesh"),
    "down": ("cli.down", "stop the daemon gracefully; its apps move"),
    "invite": ("cli.invite", "print a token that lets machines join"),
    "join": ("cli.up", "join a mesh with a token, then run"),
    "nodes": ("cli.nodes", "list, show, explain, drain, label or remove nodes"),
    "deploy": ("cli.deploy", "deploy an app from its app.yaml"),
    "apps": ("cli.apps", "list, show, explain, scale, roll back or remove apps"),
    "secrets": ("cli.secrets", "set, list or remove secrets that apps name"),
    "status": ("cli.status", "how this mesh is, as this node sees it"),
    "events": ("cli.events", "what happened, and what happens"),
    "jobs": ("cli.jobs", "background work and how far it is"),
    "auth": ("cli.auth", "API tokens"),
    "doctor": ("cli.doctor", "look for what is wrong here, and say what to do"),
    "recover": ("cli.recover", "go on after the majority was lost for good"),
    "demo": ("cli.demo", "five nodes on this machine: deploy, kill, look"),
    "version": ("cli.version", "print the version"),
    "completion": ("cli.completion", "print a completion script for bash"),
}

LATER: dict[str, str] = {
    "db": "the SQL database",
    "storage": "file storage",
    "vault": "the credential vault",
    "top": "the live view",
}
"""Names of the contract that this version does not serve yet; they are told from misspelt ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry point."""
    _open_streams()
    try:
        return _guarded(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has what it wanted; Python's own flush at exit must not complain about that.
        _silence(sys.stdout, sys.stderr)
        return 0


def _guarded(arguments: list[str]) -> int:
    """Run one command, and say in one line what went wrong."""
    from cli import output

    try:
        status = run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit:  # argparse, after --help
        sys.stdout.flush()
        raise
    except FreecloudError as error:
        return output.fail(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Of this machine: a file that may not be read, a full disk, no descriptor left.
        _silence(sys.stdout)
        what = f"cannot use {error.filename}" if error.filename is not None else "this machine refused"
        return output.fail(FailedError(what, why=error.strerror or str(error)))


def _silence(*streams: TextIO) -> None:
    """What these still hold goes nowhere, so that Python's own flush at exit says nothing."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_streams() -> None:
    """Make the three streams usable, whatever was handed over: closed ones, or an encoding without our characters."""
    from cli import output  # noqa: F401 (registers the error handler "freecloud")

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 (the process's own)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="freecloud")


def run(arguments: list[str]) -> int:
    """Dispatch; raises FreecloudError for whatever goes wrong."""
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if arguments else 2
    name = arguments[0]
    if name == "--version":
        name = "version"
    if name not in COMMANDS:
        raise _unknown(name)
    options = parser_of(name).parse(arguments[1:])
    status: int = options.run(options)
    return status


def parser_of(name: str) -> Parser:
    """The parser of one command; nothing but that command's file is loaded for it."""
    parser = Parser(
        prog=f"freecloud {name}",
        description=COMMANDS[name][1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    importlib.import_module(COMMANDS[name][0]).configure(parser, name)
    return parser


def all_parsers() -> Iterator[tuple[tuple[str, ...], Parser]]:
    """Every command and every verb, with its parser."""
    for name in COMMANDS:
        yield from walk(parser_of(name), (name,))


def overview() -> str:
    """What `freecloud --help` prints."""
    from cli.layout import columns, wrapped

    room = columns(sys.stdout)
    width = max(map(len, COMMANDS)) + 4
    lines = [
        line
        for name, (_, summary) in COMMANDS.items()
        for line in wrapped(summary, room, first=f"  {name}".ljust(width), rest=" " * width)
    ]
    return (
        "usage: freecloud COMMAND [--help]\n\n"
        "One cloud from the machines you have.\n"
        "  on the first   freecloud up, then freecloud invite\n"
        "  on each other  freecloud join TOKEN\n\n" + "\n".join(lines) + "\n"
    )


def _unknown(name: str) -> UsageError:
    if name in LATER:
        return UsageError(f"`freecloud {name}` is not in this version", why=f"{LATER[name]} comes with a later one")
    if name.startswith("-"):
        return UsageError(f"{name} stands before the command", hint="flags follow it: freecloud COMMAND --flag")
    meant = near(name, list(COMMANDS))
    hint = f"did you mean `freecloud {meant}`?" if meant else "see `freecloud --help`"
    return UsageError(f"there is no command {name!r}", hint=hint)


if __name__ == "__main__":
    sys.exit(main())
