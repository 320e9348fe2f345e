"""`freecloud doctor`: look for what is wrong here, running or not, and say what to do.

What this machine alone can tell comes first (Python, clock, limits, kernel, home), then what the daemon says, then the
ports, tried. A finding is not well only if there is something to do about it.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli import output
from cli.options import client_of, common, home_of
from daemon.client import Client
from daemon.version import VERSION
from mesh.errors import FreecloudError

DISK_FREE_MIN = 1 << 30
FILES_FREE_MIN = 10_000
DESCRIPTORS_MIN = 1024
CONNECT_S = 2.0
LOOPBACK = ("127.", "localhost", "[::1]")

LACKS = {
    "bubblewrap": "",
    "uid": "apps run as users of their own: they see the machine's processes and what all users may read",
    "landlock": "apps run as your user, kept from your files: they see your processes",
    "none": "nothing keeps apps from this machine; it takes none unless started with --unsandboxed",
}
"""What each rung of the ladder does not do (rule A3)."""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    common(parser, run, "freecloud doctor")


def run(options: argparse.Namespace) -> int:
    findings = [_python(), _clock(), _descriptors(), _kernel(), *_home(home_of(options))]
    findings += _daemon(client_of(options), here=not (options.node or os.environ.get("FREECLOUD_NODE")))
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


def _clock() -> dict[str, Any]:
    """Later than this program was installed; how far it is off is the other nodes' to say (`freecloud events`)."""
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    installed = Path(__file__).stat().st_mtime
    return _finding(time.time() > installed - 86_400, f"the clock says {shown}", "set it; invites and tokens go by it")


def _descriptors() -> dict[str, Any]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS_MIN
    return _finding(enough, f"{soft} open files a process", f"raise it: ulimit -n {DESCRIPTORS_MIN}")


def _kernel() -> dict[str, Any]:
    """What the best sandbox asks of this machine; which one holds is tried by the daemon, and told by it."""
    missing = []
    if shutil.which("bwrap") is None:
        missing.append("install bubblewrap")
    for path, closed, remedy in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "set kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "raise user.max_user_namespaces"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "allow bwrap user namespaces in AppArmor"),
    ):
        if os.getuid() != 0 and _content(path) == closed:
            missing.append(remedy)
    groups = "with control groups" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "no control groups (v2)"
    text = f"Linux {os.uname().release}, {groups}"
    if missing:
        text += ": weaker sandboxes are used"
    return _finding(not missing, text, "; ".join(missing))


def _content(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""  # this kernel has no such switch


def _home(home: Path) -> Iterator[dict[str, Any]]:
    try:
        state, disk = home.stat(), os.statvfs(home)
    except FileNotFoundError:
        yield _finding(False, f"there is no home {home}", "start with `freecloud up`")
        return
    except OSError as error:
        yield _finding(False, f"cannot look at {home}: {error.strerror}", "choose another --home")
        return
    free = disk.f_bavail * disk.f_frsize
    yield _finding(free > DISK_FREE_MIN, f"home {home}, {free >> 20} MiB free", "free some disk space")
    if disk.f_files and disk.f_favail < FILES_FREE_MIN:
        yield _finding(False, f"room for {disk.f_favail} more files on that disk", "remove small files there")
    if state.st_uid not in (os.getuid(), 0) and os.getuid() != 0:
        yield _finding(False, f"{home} belongs to another user", "run this as that user, or choose another --home")
    yield _closed(home)


def _closed(home: Path) -> dict[str, Any]:
    """Nobody else may read what lies here; an app's own user may pass through the home and its apps folder."""
    open_to_others = []
    try:
        for path in (home, *home.iterdir()):
            passable = 0o066 if path == home or path.name == "apps" else 0o077
            if stat.S_IMODE(path.lstat().st_mode) & passable and not path.is_symlink():
                open_to_others.append(path.name if path != home else str(home))
    except PermissionError:
        return _finding(True, "the home is closed to this user")
    text = f"others can read {', '.join(sorted(open_to_others)[:3])}" if open_to_others else "the home is its owner's"
    return _finding(not open_to_others, text, f"chmod -R go-rw {home}")


def _daemon(client: Client, *, here: bool) -> Iterator[dict[str, Any]]:
    try:
        status = client.get("/v1/status")
        nodes = client.get("/v1/nodes")["nodes"]
    except FreecloudError as error:
        yield _finding(False, str(error.what), error.hint)
        return
    node, quorum = status["node"], status["quorum"]
    same = node["version"] == VERSION
    text = f"the daemon {node['name']} answers, version {node['version']}"
    yield _finding(same, text, f"restart it: this command is {VERSION}")
    versions = sorted({other["version"] for other in nodes if other["version"]})
    if len(versions) > 1:
        yield _finding(False, f"the nodes run versions {', '.join(versions)}", "upgrade the older ones")
    lacks = LACKS.get(node["sandbox"], "")
    text = f"apps run under {node['sandbox']}" + (f": {lacks}" if lacks else "")
    yield _finding(node["sandbox"] != "none", text, "install bubblewrap, then start the node again")
    yield _finding(quorum["has_quorum"], "the mesh has a quorum", "reconnect the other voters, or see `recover`")
    for name, address in sorted(node["addresses"].items()) if here else ():
        yield _port(name, address)
    for other in nodes:
        if other["state"] == "down":
            yield _finding(False, f"{other['name']} is down", f"see `freecloud nodes why {other['name']}`")
    told = {f"{other['name']} is down; see `freecloud nodes why {other['name']}`" for other in nodes}
    yield from (_finding(False, warning) for warning in status["warnings"] if warning not in told)


def _port(name: str, address: str) -> dict[str, Any]:
    """Whether this listener can be reached from here, and from how far it could be."""
    host, _, port = address.rpartition(":")
    asked = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 (compared, not bound)
    try:
        socket.create_connection((asked, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        return _finding(False, f"{name} at {address} cannot be reached: {why}", "look at this machine's firewall")
    near = ", from this machine alone" if host.startswith(LOOPBACK) else ""
    return _finding(True, f"{name} at {address} can be reached{near}")
