"""`freecloud completion bash`: a script that asks the command's own parsers, so that it can never be out of date.

What a name can be (an app, a node, a secret) is asked of the daemon, if one answers at once. Names are data that others
chose: the script compares them, and never lets the shell expand them (attack 47).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence

from cli import output
from cli.main import COMMANDS, parser_of
from cli.options import client_of
from cli.parsing import flags_of, verbs_of
from daemon.client import Client, segment
from mesh.errors import FreecloudError, UsageError

SCRIPT = """\
_freecloud() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        if [[ $word == //files ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
        elif [[ $word == "${COMP_WORDS[COMP_CWORD]}"* ]]; then
            COMPREPLY+=("$word")
        fi
    done < <("${1/#\\~/$HOME}" completion --words "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
}
complete -F _freecloud freecloud
"""

FILES = "//files"
"""Stands for "any file": the shell knows those best."""

ANSWER_S = 2.0
"""Whoever waits for a completion types on instead."""

PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What is offered of the mesh's names: a shell has no meaning for it."""

Ask = Callable[[Client, Mapping[str, str]], list[str]]
"""(daemon, the arguments given so far) -> names."""


def _names(path: str, rows: str, key: str = "name") -> Ask:
    def ask(client: Client, given: Mapping[str, str]) -> list[str]:
        return [str(row[key]) for row in client.call("GET", path, timeout=ANSWER_S)[rows]]

    return ask


def _replicas(client: Client, given: Mapping[str, str]) -> list[str]:
    app = client.call("GET", f"/v1/apps/{segment(given.get('app', ''))}", timeout=ANSWER_S)
    return [str(replica["id"]) for replica in app["placed"]]


SUBJECTS: dict[str, Ask] = {
    "app": _names("/v1/apps", "apps"),
    "node": _names("/v1/nodes", "nodes"),
    "secret": _names("/v1/secrets", "secrets"),
    "API token": _names("/v1/tokens", "tokens", "id"),
    "replica": _replicas,
}
"""What `options.about` says that an argument is about, and how it is asked."""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("shell", nargs="?", default="bash", choices=["bash"], help="bash")
    parser.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.epilog = 'example:\n  eval "$(freecloud completion bash)"'
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.words is not None:
        for word in candidates(options.words):
            output.line(word)
        return 0
    output.line(SCRIPT.rstrip("\n"))
    return 0


def candidates(before: Sequence[str]) -> list[str]:
    """What may follow these words: commands, verbs, flags, or the names of what they are about."""
    if not before:
        return list(COMMANDS)
    if before[0] not in COMMANDS:
        return []
    parser: argparse.ArgumentParser = parser_of(before[0])
    places = _positionals(parser)
    given: dict[str, str] = {}
    wanted: argparse.Action | None = None  # the flag whose value comes next
    for word in before[1:]:
        if wanted is not None:
            given[wanted.dest], wanted = word, None
        elif word in verbs_of(parser):
            parser = verbs_of(parser)[word]
            places = _positionals(parser)
        elif word.startswith("-"):
            action = parser._option_string_actions.get(word)
            wanted = action if action is not None and action.nargs is None else None
        elif places and places[0].nargs is None:
            given[places.pop(0).dest] = word
    if wanted is not None:
        return _values(wanted, given)
    found = list(verbs_of(parser))
    if places:
        found.extend(_values(places[0], given))
    return found + flags_of(parser)


def _positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in parser._actions
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
    ]


def _values(action: argparse.Action, given: Mapping[str, str]) -> list[str]:
    """What one argument can be."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.metavar in ("FILE", "DIR"):
        return [FILES]
    ask = SUBJECTS.get(getattr(action, "about", ""))
    if ask is None:
        return []
    options = argparse.Namespace(home=given.get("home"), node=given.get("node"))
    try:
        return [name for name in ask(client_of(options), given) if PLAIN_WORD.fullmatch(name)]
    except (FreecloudError, UsageError, KeyError, TypeError):
        return []  # no daemon, or none that answers now: there is nothing to offer, and nothing to say it to
