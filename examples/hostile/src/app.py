"""Serves what it got: GET /tries tries everything, POST /bomb, /flood-disk, /flood-log, /eat-memory make trouble."""

from __future__ import annotations

import http.server
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tries import attempt_all


def bomb() -> None:
    """Fork until nothing more can be forked, and keep them all."""
    while True:
        try:
            if os.fork() == 0:
                while True:
                    pass
        except OSError:
            return


def flood_disk() -> None:
    number = 0
    while True:
        number += 1
        Path(f"flood-{number}").write_bytes(bytes(1 << 20))


def flood_log() -> None:
    line = "x" * 1000
    while True:
        print(line)


def eat_memory() -> None:
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1 << 20)))


TROUBLE: dict[str, Callable[[], None]] = {
    "/bomb": bomb,
    "/flood-disk": flood_disk,
    "/flood-log": flood_log,
    "/eat-memory": eat_memory,
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/tries":
            self.answer(json.dumps(attempt_all(), indent=2) + "\n")
        else:
            self.answer("ok\n")

    def do_POST(self) -> None:
        trouble = TROUBLE.get(self.path)
        self.answer("as you wish\n" if trouble else "no such trouble\n")
        if trouble and os.fork() == 0:
            trouble()
            os._exit(0)

    def answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        sys.stderr.write(f"{self.command} {self.path}\n")


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
