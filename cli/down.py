"""`freecloud down`: drain, leave gracefully, stop."""

from __future__ import annotations

import argparse
import time

from cli import output
from cli.options import client_of, common, home_of
from daemon.home import Home, daemon_pid
from mesh.errors import FailedError

DRAIN_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
"""The daemon is no child of this process: only its lock on the home tells that it is gone."""


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
    _wait_until_gone(options)
    if options.json:
        output.result(last)
    else:
        output.note("stopped")
    return 0


def _wait_until_gone(options: argparse.Namespace) -> None:
    """Return when the daemon and its apps have ended, so that the home may be moved or removed."""
    if options.node:
        return
    home = Home(home_of(options))
    limit = time.monotonic() + STOP_TIMEOUT_S
    while daemon_pid(home) is not None:
        if time.monotonic() > limit:
            raise FailedError("the daemon has not ended yet", hint=f"look at {home.daemon_log}")
        time.sleep(POLL_S)
