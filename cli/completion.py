"""`freecloud completion bash`: a script that asks the command's own parsers, so that it can never be out of date."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from cli import output
from cli.main import COMMANDS, Parser
from mesh.errors import UsageError

SCRIPT = """\
_freecloud() {
    local words
    words=$(freecloud completion --words "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
    [ ${#COMPREPLY[@]} -eq 0 ] && COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _freecloud freecloud
"""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("shell", nargs="?", default="bash", help="bash")
    parser.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.epilog = 'example:\n  eval "$(freecloud completion bash)"'
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.words is not None:
        output.line(" ".join(candidates(options.words)))
        return 0
    if options.shell != "bash":
        raise UsageError(f"no completion for {options.shell!r}", hint="bash is there")
    output.line(SCRIPT.rstrip("\n"))
    return 0


def candidates(before: list[str]) -> list[str]:
    """What may follow these words: commands, verbs or flags."""
    if not before:
        return list(COMMANDS)
    if before[0] not in COMMANDS:
        return []
    parser: argparse.ArgumentParser = Parser(prog="freecloud")
    importlib.import_module(COMMANDS[before[0]][0]).configure(parser, before[0])
    for word in before[1:]:
        parser = _verbs(parser).get(word, parser)
    found = list(_verbs(parser))
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            found.extend(option for option in action.option_strings if option.startswith("--"))
    return found


def _verbs(parser: argparse.ArgumentParser) -> dict[str, Any]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
