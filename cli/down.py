"""`freecloud down`: drain, leave gracefully, stop."""

from __future__ import annotations

import argparse

from cli import output
from cli.options import client_of, common

DRAIN_TIMEOUT_S = 120.0


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--now", action="store_true", help="do not wait for its apps to move")
    common(parser, run, "freecloud down")


def run(options: argparse.Namespace) -> int:
    progress = output.Progress()
    last: dict[str, object] = {}
    for event in client_of(options).lines(
        "POST", "/v1/daemon/stop", body={"drain": not options.now}, timeout=DRAIN_TIMEOUT_S
    ):
        last = event
        progress.show(str(event.get("text", "")))
    progress.end()
    if options.json:
        output.result(last)
    else:
        output.note("stopped")
    return 0
