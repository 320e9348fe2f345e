"""`freecloud doctor`: look for what is wrong here, running or not, and say what to do."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any

from cli import output
from cli.options import client_of, common, home_of
from mesh.errors import FreecloudError

DISK_FREE_MIN = 1 << 30


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    common(parser, run, "freecloud doctor")


def run(options: argparse.Namespace) -> int:
    findings = [_python(), _home(options), _sandbox(), *_daemon(options)]
    if options.json:
        output.result({"findings": findings})
    else:
        for finding in findings:
            text = finding["text"] + (f" — {finding['hint']}" if finding["hint"] else "")
            output.sentence(text, mark="ok" if finding["ok"] else "!!", colour="green" if finding["ok"] else "red")
    return 0 if all(finding["ok"] for finding in findings) else 1


def _finding(ok: bool, text: str, hint: str = "") -> dict[str, Any]:
    return {"ok": ok, "text": text, "hint": hint if not ok else ""}


def _python() -> dict[str, Any]:
    # Before 3.11.5 data received before TLS could be taken for data received within it (CVE-2023-40217).
    version = ".".join(map(str, sys.version_info[:3]))
    return _finding(sys.version_info >= (3, 11, 5), f"Python {version}", "upgrade to 3.11.5 or newer")


def _home(options: argparse.Namespace) -> dict[str, Any]:
    home = home_of(options)
    try:
        free = shutil.disk_usage(home).free
    except FileNotFoundError:
        return _finding(False, f"there is no home {home}", "start with `freecloud up`")
    except OSError as error:
        return _finding(False, f"cannot look at {home}: {error.strerror}", "choose another --home")
    return _finding(free > DISK_FREE_MIN, f"home {home}, {free >> 20} MiB free", "free some disk space")


def _sandbox() -> dict[str, Any]:
    return _finding(
        shutil.which("bwrap") is not None, "bubblewrap for apps", "install bubblewrap; weaker sandboxes are used now"
    )


def _daemon(options: argparse.Namespace) -> list[dict[str, Any]]:
    try:
        status = client_of(options).get("/v1/status")
    except FreecloudError as error:
        return [_finding(False, str(error.what), error.hint)]
    quorum = status["quorum"]
    return [
        _finding(True, f"the daemon {status['node']['name']} answers"),
        _finding(quorum["has_quorum"], "the mesh has a quorum", "reconnect the other voters, or see `recover`"),
        *[_finding(False, warning) for warning in status["warnings"]],
    ]
