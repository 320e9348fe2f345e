"""Answers at once, late, or bit by bit, and writes down each request that it took: what a relay can go wrong with."""

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPLICA = os.environ.get("FREECLOUD_REPLICA", "?")
SLOW_S = 0.5
PIECES = 10
PIECE = b"x" * 1000
PIECE_S = 0.1


class Handler(BaseHTTPRequestHandler):
    """`/health`, `/fast`, `/slow`, `/stream`; a POST to any of them is the same with a body, which is sent back."""

    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024  # head and body leave together
    timeout = 60

    def do_GET(self) -> None:
        self.take(b"")

    def do_POST(self) -> None:
        self.take(self.rfile.read(int(self.headers["Content-Length"])))

    def take(self, body: bytes) -> None:
        if self.path != "/health":
            sys.stdout.write(f"took {self.command} {self.headers['X-Request-Id']}\n")
            sys.stdout.flush()
        if self.path == "/stream":
            self.stream()
            return
        if self.path == "/slow":
            time.sleep(SLOW_S)
        self.head()
        self.send_header("Content-Length", str(len(body) + 3))
        self.end_headers()
        self.wfile.write(b"ok\n" + body)

    def stream(self) -> None:
        self.head()
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(PIECES):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
            self.wfile.flush()
            time.sleep(PIECE_S)
        self.wfile.write(b"0\r\n\r\n")

    def head(self) -> None:
        self.send_response(200)
        self.send_header("X-Replica", REPLICA)

    def log_message(self, form: str, *arguments: object) -> None:
        """What was taken is written by `take` alone."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)

    def stop(signal_number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
