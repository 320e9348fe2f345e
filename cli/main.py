"""`freecloud`: find the command, load only what it needs, run it, turn an error into one line and an exit status.

0 done   1 failed   2 wrong usage   3 not found   4 refused   5 no quorum or unreachable
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mesh.errors import FreecloudError, UsageError

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


class Parser(argparse.ArgumentParser):
    """argparse that answers a mistake with one line and exit 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry point."""
    try:
        status = run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except FreecloudError as error:
        from cli import output

        return output.fail(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has what it wanted; Python's own flush at exit must not complain about that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(arguments: list[str]) -> int:
    """Dispatch; raises FreecloudError for whatever goes wrong."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if arguments else 2
    name = arguments[0]
    if name == "--version":
        name = "version"
    if name not in COMMANDS:
        raise _unknown(name)
    module = importlib.import_module(COMMANDS[name][0])
    parser = Parser(
        prog=f"freecloud {name}",
        description=COMMANDS[name][1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser, name)
    options = parser.parse_args(arguments[1:])
    status: int = options.run(options)
    return status


def overview() -> str:
    """What `freecloud --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return (
        "usage: freecloud COMMAND [--help]\n\n"
        "One cloud from the machines you have. On the first:  freecloud up\n"
        "On each other:  freecloud join TOKEN   (the token comes from  freecloud invite)\n\n" + "\n".join(lines) + "\n"
    )


def _unknown(name: str) -> UsageError:
    if name in LATER:
        return UsageError(f"`freecloud {name}` is not in this version", why=f"{LATER[name]} comes with a later one")
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `freecloud {near[0]}`?" if near else "see `freecloud --help`"
    return UsageError(f"there is no command {name!r}", hint=hint)


if __name__ == "__main__":
    sys.exit(main())
