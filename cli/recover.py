"""`freecloud recover`: a survivor goes on after the majority was lost for good (rule T5). Never automatic."""

from __future__ import annotations

import argparse
import sys

from cli import output
from cli.options import client_of, common
from mesh.errors import RefusedError

RECOVER_TIMEOUT_S = 60.0
"""Twice what the daemon takes at most."""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--yes", metavar="MESH-ID", help="the mesh's id, typed, instead of the question")
    common(parser, run, "freecloud recover")


def run(options: argparse.Namespace) -> int:
    client = client_of(options)
    plan = client.get("/v1/recover")
    columns = ("name", "epoch", "term", "index", "text")
    rows = [[str(peer[column]) for column in columns] for peer in plan["survivors"]]
    if not options.json:
        output.table(["survivor", "epoch", "term", "index", "note"], rows)
        if plan["needed"]:
            output.note(plan["text"])
    if not plan["needed"]:
        raise RefusedError("nothing was changed", why=plan["text"], hint="look at `freecloud status` there")
    answer = options.yes or _ask(plan["mesh_id"])
    if answer != plan["mesh_id"]:
        raise RefusedError("nothing was changed", why="the mesh's id was not typed")
    result = client.post("/v1/recover", {"mesh_id": answer, "epoch": plan["next_epoch"]}, timeout=RECOVER_TIMEOUT_S)
    if options.json:
        output.result(result)
    else:
        output.line(result["text"])
    return 0


def _ask(mesh_id: str) -> str:
    if not sys.stdin.isatty():
        raise RefusedError("recover asks before it acts", hint="run it in a terminal, or give --yes MESH-ID")
    sys.stderr.write(f"type the mesh's id ({mesh_id}) to go on without the lost members: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()
