"""`freecloud auth`: API tokens, for use from elsewhere; each shown once, when it is made."""

from __future__ import annotations

import argparse

from cli import output
from cli.options import about, client_of, common, duration_ms, verb, verbs
from daemon.client import segment
from mesh.errors import UsageError


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    place = verbs(parser, "freecloud auth tokens list")
    summary = "list, create or revoke API tokens"
    tokens = place.add_parser("tokens", help=summary, description=summary, allow_abbrev=False)
    inner = verbs(tokens, "freecloud auth tokens create ci --scope deploy")
    verb(inner, "list", "names and scopes, never the tokens", list_tokens, "freecloud auth tokens list")
    create = verb(inner, "create", "make one", create_token, "freecloud auth tokens create ci --scope deploy")
    create.add_argument("name", help="what it is for")
    scopes = ["read", "deploy", "data", "admin"]
    create.add_argument("--scope", action="append", choices=scopes, required=True, help="what it may do; repeat it")
    create.add_argument("--expires", metavar="TIME", help="how long it is good for (90d); never is not offered")
    revoke = verb(inner, "revoke", "refuse it from now on", revoke_token, "freecloud auth tokens revoke ab12cd34")
    about(revoke, "id", "API token", help="see `freecloud auth tokens list`")
    for verb_name in ("login", "logout"):
        later = place.add_parser(verb_name, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        common(later, _later, f"freecloud auth {verb_name}")
        later.add_argument("--provider", help="whose account")


def list_tokens(options: argparse.Namespace) -> int:
    answer = client_of(options).get("/v1/tokens")
    if options.json:
        output.result(answer)
        return 0
    rows = [
        [token["id"], token["name"], " ".join(token["scopes"]), token["created"], token["expires"]]
        for token in answer["tokens"]
    ]
    output.table(["id", "name", "scopes", "created", "expires"], rows, empty="no API tokens")
    return 0


def create_token(options: argparse.Namespace) -> int:
    request = {
        "name": options.name,
        "scopes": sorted(set(options.scope)),
        "expires_ms": duration_ms(options.expires or "90d"),
    }
    answer = client_of(options).post("/v1/tokens", request)
    if options.json:
        output.result(answer)
    else:
        output.note("keep it now; it is not shown again")
        output.line(answer["token"])
    return 0


def revoke_token(options: argparse.Namespace) -> int:
    answer = client_of(options).delete(f"/v1/tokens/{segment(options.id)}")
    if options.json:
        output.result(answer)
    return 0


def _later(options: argparse.Namespace) -> int:
    raise UsageError("providers' logins are not in this version", why="they come with a later one")
