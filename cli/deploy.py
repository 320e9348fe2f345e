"""`freecloud deploy`: check the manifest, pack the source, hand both over, and wait until it is healthy."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from cli import output
from cli.options import client_of, common
from daemon.client import Client
from mesh.errors import FreecloudError, UsageError

MANIFEST_BYTES_MAX = 256 * 1024


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--manifest", required=True, metavar="FILE", help="the app's app.yaml")
    parser.add_argument("--plan", action="store_true", help="print what it would do and why, and do nothing")
    common(parser, run, "freecloud deploy --manifest app.yaml")


def run(options: argparse.Namespace) -> int:
    client = client_of(options)
    path = Path(options.manifest)
    text = _read(path)
    try:
        checked = client.post("/v1/apps/check", {"manifest": text})
    except FreecloudError as error:
        raise _placed(text, error, path) from error
    if options.plan:
        return _plan(options, client, text)
    bundle = _upload(client, path.parent / checked["source"])
    return _follow(options, client, {"manifest": text, "bundle": bundle["bundle"]})


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        if len(content) > MANIFEST_BYTES_MAX:
            raise UsageError(f"{path} is larger than {MANIFEST_BYTES_MAX >> 10} KiB")
        return content.decode()
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=error.strerror or "") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text") from error


def _placed(text: str, error: FreecloudError, path: Path) -> FreecloudError:
    """The error with its place in the file, as compilers write it; a terminal is shown the line itself, too."""
    for place in getattr(error, "__notes__", ()):
        number, column = (int(part) for part in place.split(":"))
        lines = text.split("\n")
        if sys.stderr.isatty() and 0 < number <= len(lines):
            line = lines[number - 1].expandtabs(1)
            output.note(f"  {line}\n  {' ' * (column - 1)}^", as_is=True)
        what = f"{path}:{number}:{column}: {error.what}"
        return UsageError(what, why=error.why, hint=error.hint, code=error.stable_code)
    return error


def _plan(options: argparse.Namespace, client: Client, text: str) -> int:
    plan = client.post("/v1/apps/plan", {"manifest": text})
    if options.json:
        output.result(plan)
        return 0
    for step in plan["steps"]:
        output.sentence(step["text"], mark=step["sign"])
    for reason in plan["reasons"]:
        output.note(f"  {reason}")
    if not plan["steps"]:
        output.note("nothing to do")
    return 0


def _upload(client: Client, source: Path) -> dict[str, Any]:
    if source.is_file():
        with source.open("rb") as content:
            return client.send_file("POST", "/v1/bundles", content)
    from cli.pack import pack

    with tempfile.TemporaryFile() as content:
        pack(source, content)
        content.seek(0)
        return client.send_file("POST", "/v1/bundles", content)


def _follow(options: argparse.Namespace, client: Client, request: dict[str, Any]) -> int:
    progress = output.Progress()
    final: dict[str, Any] = {}
    try:
        for event in client.lines("POST", "/v1/apps", body=request):
            final = event
            if options.json:
                output.result(event)
            else:
                progress.show(event["text"])
    finally:
        progress.end()
    if final.get("outcome") == "healthy":
        if not options.json:
            output.line(f"{final['app']} release {final['release']} is healthy")
            for address in final["addresses"]:
                output.line(f"  {address}")
        return 0
    if not options.json:
        output.note(f"freecloud: {final.get('text', 'the deploy did not end')}")
        for log_line in final.get("log", []):
            output.note(f"  | {log_line}", as_is=True)
    return 1
