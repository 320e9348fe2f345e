"""`freecloud jobs`: background work and how far it is."""

from __future__ import annotations

import argparse

from cli import output
from cli.options import client_of, common


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    common(parser, run, "freecloud jobs")


def run(options: argparse.Namespace) -> int:
    answer = client_of(options).get("/v1/jobs")
    if options.json:
        output.result(answer)
        return 0
    rows = [[job["name"], job["state"], job["progress"], job["text"]] for job in answer["jobs"]]
    output.table(["job", "state", "progress", "doing"], rows, empty="no background work")
    return 0
