"""An app that leaves processes everywhere: in another session, without environment, without a parent, in no folder."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

MANIFEST = """\
name: stray
source: ./src
command: python3 app.py
health: {path: /, interval: 200ms, timeout: 5s}
"""

SOURCE = """\
import http.server, os

MARK = "%s"

def leave(sessions):
    if os.fork() == 0:
        for _ in range(sessions):
            os.setsid()
            if os.fork():
                os._exit(0)
        os.chdir("/")
        os.closerange(0, 1024)
        os.execve("/bin/sleep", [MARK, "86400"], {})

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

for sessions in (0, 1, 2):
    leave(sessions)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

STRAYS = 3


@dataclass(frozen=True, slots=True)
class StrayApp:
    """The app's manifest, and the mark by which its processes are known though they say nothing of themselves."""

    manifest: Path
    mark: str

    def strays(self) -> set[int]:
        """Pids of what it left, as the machine sees them."""
        found = set()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    words = (process / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue  # it ended meanwhile
                if words[0] == self.mark.encode():
                    found.add(int(process.name))
        return found


def write_stray_app(folder: Path) -> StrayApp:
    mark = f"stray-{secrets.token_hex(6)}"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "app.py").write_text(SOURCE % mark)
    (folder / "app.yaml").write_text(MANIFEST)
    return StrayApp(folder / "app.yaml", mark)
