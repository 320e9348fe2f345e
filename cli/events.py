"""`freecloud events`: what happened, and with -f what happens."""

from __future__ import annotations

import argparse

from cli import output
from cli.options import client_of, common


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on as things happen")
    common(parser, run, "freecloud events -f")


def run(options: argparse.Namespace) -> int:
    for event in client_of(options).lines("GET", "/v1/events", query={"follow": int(options.follow)}):
        if options.json:
            output.result(event)
        else:
            output.sentence(f"{event['kind'].ljust(18)} {event['text']}", mark=event["at"] or "-")
    return 0
