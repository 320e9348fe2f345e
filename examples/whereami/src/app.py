"""Where am I? A page that shows which replica answered, and how often each one did.

It keeps nothing: the counts live in the page that asked.
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = {
    "replica": os.environ.get("FREECLOUD_REPLICA", "?"),
    "node": os.environ.get("FREECLOUD_NODE", "?"),
    "zone": os.environ.get("FREECLOUD_ZONE", ""),
    "release": os.environ.get("FREECLOUD_RELEASE", "?"),
}
PAGE = (Path(__file__).parent / "page.html").read_bytes()


class Handler(BaseHTTPRequestHandler):
    """Three paths: the page, who answers, and whether it is well."""

    protocol_version = "HTTP/1.1"
    server_version = "whereami"
    wbufsize = 64 * 1024  # head and body leave together: two small segments would wait for each other's acknowledgement

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/":
            self.answer(200, "text/html; charset=utf-8", PAGE)
        elif path == "/where":
            self.answer(200, "application/json", json.dumps(HERE).encode())
        elif path == "/health":
            self.answer(200, "text/plain", b"ok\n")
        else:
            self.answer(404, "text/plain", b"not here\n")

    def answer(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Replica", HERE["replica"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form: str, *arguments: object) -> None:
        if not self.path.startswith("/health"):
            print(form % arguments, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # what was begun is answered before the process ends
    request_queue_size = 128


def main() -> None:
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)

    def stop(signal_number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"{HERE['replica']} serves on {os.environ['PORT']}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()


if __name__ == "__main__":
    sys.exit(main())
