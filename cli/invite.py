"""`freecloud invite`: one token on stdout, nothing else."""

from __future__ import annotations

import argparse

from cli import output
from cli.options import client_of, common, duration_ms
from mesh.errors import UsageError


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--uses", type=int, default=1, metavar="N", help="how many machines it admits (1)")
    parser.add_argument("--expires", default="1h", metavar="TIME", help="how long it is good for (1h; at most 30d)")
    parser.add_argument("--untrusted", action="store_true", help="joiners store and run, and read nothing")
    parser.add_argument("--label", action="append", default=[], metavar="K=V", help="a label for who joins")
    common(parser, run, "freecloud invite --uses 3 --expires 10m")


def run(options: argparse.Namespace) -> int:
    if options.untrusted:
        raise UsageError("--untrusted is not in this version", why="untrusted nodes come with file storage")
    answer = client_of(options).post(
        "/v1/invites",
        {"uses": options.uses, "expires_ms": duration_ms(options.expires), "labels": options.label},
    )
    for notice in answer.get("notices", []):
        output.note(notice)
    if options.json:
        output.result(answer)
    else:
        output.line(answer["token"])
    return 0
