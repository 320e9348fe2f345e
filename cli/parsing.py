"""The command's parsers: one line for every mistake, with what was probably meant, and a walk over all of them."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from mesh.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse that answers a mistake with one line and exit 2, and names what was probably meant."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help is a result like any other: what cannot be written is an error, which argparse would swallow."""
        stream = file or sys.stdout
        stream.write(message)
        stream.flush()

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Unknown flags first: argparse tells a misspelt one as another that is missing."""
        self.look_for_unknown_flags(words)
        return self.parse_args(words)

    def look_for_unknown_flags(self, words: Sequence[str]) -> None:
        """Raises UsageError for the first flag that the (sub)command it stands in does not know."""
        parser: argparse.ArgumentParser = self
        rest = iter(words)
        for word in rest:
            if word == "--":
                return
            if not word.startswith("--"):
                parser = verbs_of(parser).get(word, parser)
                continue
            flag, separator, _ = word.partition("=")
            action = parser._option_string_actions.get(flag)
            if action is None:
                raise UsageError(f"{parser.prog} knows no {flag}", hint=_hint(flag, flags_of(parser), parser.prog))
            if action.nargs == argparse.REMAINDER:
                return
            if action.nargs is None and not separator:
                next(rest, None)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [str(choice) for choice in action.choices or ()]
        if not choices or value in choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            raise UsageError(f"there is no `{self.prog} {value}`", hint=_hint(str(value), choices, self.prog))
        name = action.option_strings[0] if action.option_strings else str(action.dest)
        meant = near(str(value), choices)
        hint = f"did you mean `{meant}`?" if meant else f"see `{self.prog} --help`"
        raise UsageError(f"{name} takes {', '.join(choices)}, not {value!r}", hint=hint)


def near(word: str, known: Sequence[str]) -> str | None:
    """What of the known words was probably meant."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if found:
        return found[0]
    starts = [candidate for candidate in known if len(word) > 1 and candidate.startswith(word)]
    return starts[0] if len(starts) == 1 else None


def _hint(word: str, known: Sequence[str], program: str) -> str:
    meant = near(word, known)
    if meant is None:
        return f"see `{program} --help`"
    return f"did you mean `{meant}`?" if meant.startswith("-") else f"did you mean `{program} {meant}`?"


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs of a command and their parsers; empty for one without."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """The long flags that a person may see."""
    return [
        flag
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for flag in action.option_strings
        if flag.startswith("--")
    ]


def walk(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Parser]]:
    """The parser of these words and of every verb under it."""
    if isinstance(parser, Parser):
        yield words, parser
    for verb, below in verbs_of(parser).items():
        yield from walk(below, (*words, verb))
