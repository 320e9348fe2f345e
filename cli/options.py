"""What every command takes, and the client that comes of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli import output
from daemon.client import Client
from mesh.errors import UsageError

Run = Callable[[argparse.Namespace], int]
Verbs = "argparse._SubParsersAction[Any]"


def common(parser: argparse.ArgumentParser, run: Run, example: str) -> None:
    """Give a command its --json, --home and --node, its example, and what runs it."""
    parser.add_argument("--json", action="store_true", help="print JSON: one document, or one a line when streaming")
    parser.add_argument("--home", metavar="DIR", help="the daemon's state directory (FREECLOUD_HOME)")
    parser.add_argument("--node", metavar="URL", help="a node elsewhere (FREECLOUD_NODE; its token: FREECLOUD_TOKEN)")
    parser.epilog = f"example:\n  {example}"
    parser.set_defaults(run=run)


def verbs(parser: argparse.ArgumentParser, example: str) -> Any:
    """The place for a command's verbs: `nodes list`, `apps scale`."""
    parser.epilog = f"example:\n  {example}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")


def verb(place: Any, name: str, summary: str, run: Run, example: str) -> argparse.ArgumentParser:
    """One verb of a command."""
    parser: argparse.ArgumentParser = place.add_parser(
        name,
        help=summary,
        description=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common(parser, run, example)
    return parser


def about(parser: argparse.ArgumentParser, name: str, subject: str, **details: Any) -> argparse.Action:
    """An argument that names a thing of this kind (see `completion.SUBJECTS`), so that the shell can offer those."""
    action = parser.add_argument(name, **details)
    action.about = subject  # type: ignore[attr-defined]
    return action


def home_of(options: argparse.Namespace) -> Path:
    """The state directory that this command is about."""
    named = options.home or os.environ.get("FREECLOUD_HOME")
    if named:
        return Path(os.path.abspath(Path(named).expanduser()))  # noqa: PTH100 (links in the owner's path stay)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "freecloud"


def client_of(options: argparse.Namespace, *, tell_age: bool = True) -> Client:
    """The daemon that this command talks to. What it answers without a quorum is said to be old, on stderr.

    The token comes from the environment or a file named there, never from argv (attack 3).
    """
    node = options.node or os.environ.get("FREECLOUD_NODE")
    token = os.environ.get("FREECLOUD_TOKEN")
    if node and not token:
        path = os.environ.get("FREECLOUD_TOKEN_FILE")
        if path is None:
            raise UsageError("a node elsewhere needs an API token", hint="set FREECLOUD_TOKEN or FREECLOUD_TOKEN_FILE")
        try:
            token = Path(path).read_text().strip()
        except OSError as error:
            raise UsageError(f"cannot read {path}", why=os.strerror(error.errno or 0)) from error
    on_stale = _Stale() if tell_age else lambda seconds: None
    return Client(home_of(options) / "run" / "daemon.sock", node=node, token=token, on_stale=on_stale)


class _Stale:
    """Says it once a command."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, seconds: float) -> None:
        if not self._said:
            self._said = True
            output.note(f"! no quorum: what this node knows is {output.age(seconds)} old")


def duration_ms(text: str) -> int:
    """Milliseconds of "90s", "10m", "1h", "7d".

    Raises:
        UsageError: Not such a text.
    """
    units = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not (number.isascii() and number.isdigit() and len(number) < 10) or int(number) == 0:
        raise UsageError(f"{text!r} is no duration", hint="write 90s, 10m, 1h or 7d")
    return int(number) * units[unit]
