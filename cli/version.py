"""`freecloud version`."""

from __future__ import annotations

import argparse
import platform

from cli import output
from daemon.version import VERSION


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--json", action="store_true")
    parser.epilog = "example:\n  freecloud version"
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.json:
        output.result({"version": VERSION, "python": platform.python_version()})
    else:
        output.line(f"freecloud {VERSION}")
    return 0
