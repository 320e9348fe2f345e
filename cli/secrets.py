"""`freecloud secrets`: the value comes from stdin and is sealed by the daemon; it is never shown again."""

from __future__ import annotations

import argparse
import getpass
import sys

from cli import output
from cli.options import about, client_of, verb, verbs
from daemon.client import segment
from mesh.errors import UsageError


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    place = verbs(parser, "freecloud secrets list")
    put = verb(place, "set", "set a secret; its value comes from stdin", set_secret, "freecloud secrets set KEY < file")
    about(put, "name", "secret", help="as app.yaml names it")
    verb(place, "list", "names, never values", list_secrets, "freecloud secrets list")
    remove = verb(place, "rm", "remove a secret", remove_secret, "freecloud secrets rm KEY")
    about(remove, "name", "secret", help="as app.yaml names it")


def set_secret(options: argparse.Namespace) -> int:
    if sys.stdin.isatty():
        value = getpass.getpass(f"value of {options.name}: ")
    else:
        value = sys.stdin.read().removesuffix("\n")
    if not value:
        raise UsageError("the value is empty", hint="write it to stdin")
    answer = client_of(options).call("PUT", f"/v1/secrets/{segment(options.name)}", body={"value": value})
    if options.json:
        output.result(answer)
    else:
        output.note(f"{options.name} is set; apps that name it get the new value when they start")
    return 0


def list_secrets(options: argparse.Namespace) -> int:
    answer = client_of(options).get("/v1/secrets")
    if options.json:
        output.result(answer)
        return 0
    rows = [[secret["name"], secret["updated"], ", ".join(secret["apps"]) or "-"] for secret in answer["secrets"]]
    output.table(["name", "updated", "apps"], rows, empty="no secrets")
    return 0


def remove_secret(options: argparse.Namespace) -> int:
    answer = client_of(options).delete(f"/v1/secrets/{segment(options.name)}")
    if options.json:
        output.result(answer)
    return 0
