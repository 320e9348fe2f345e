"""What a node left on this machine: processes, control groups, mounts, secrets in memory. After its end: nothing."""

from __future__ import annotations

import os
from pathlib import Path

from cli import demo
from daemon.home import Home
from mesh.errors import FreecloudError
from mesh.identity import load_identity
from scheduler.replica_files import MEMORY_FOLDERS


def node_id(home: Path) -> str | None:
    """Whose home it is; None if it is nobody's (any more)."""
    try:
        return str(load_identity(Home(home).identity).node_id)
    except (OSError, FreecloudError):
        return None


def remove_groups(node: str | None) -> None:
    """What a real power cut would have taken away: the control groups of a node whose processes were all killed."""
    if node is not None:
        demo.remove_groups(node)


def groups_of(node: str) -> list[str]:
    """Folders of this node's control groups, wherever they are mounted."""
    return [place for place, _, _ in os.walk("/sys/fs/cgroup") if f"/freecloud-{node}" in place]


def processes_of(folder: Path) -> dict[int, str]:
    """Who still has to do with a folder: by its command line, environment, place, root, program, files or mounts."""
    wanted = os.fsencode(folder)
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            where = _where_it_is_named(process, wanted)
            if where:
                found[int(process.name)] = where
    return found


def mounts_of(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


def secrets_in_memory() -> set[str]:
    """Folders of secrets that some run was given."""
    return {str(place) for root in MEMORY_FOLDERS for place in Path(root).glob("freecloud-*") if place.is_dir()}


def _where_it_is_named(process: Path, wanted: bytes) -> str:
    try:
        for name in ("cmdline", "environ", "mountinfo"):
            if wanted in (process / name).read_bytes():
                return name
        links = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
        for link in links:
            if wanted in os.fsencode(link.readlink()):
                return link.name
    except OSError:
        return ""  # it ended meanwhile, or is the kernel's own
    return ""
