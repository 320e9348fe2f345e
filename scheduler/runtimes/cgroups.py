"""Control groups: memory, processes and processor shares of a replica, where this daemon may make groups (attack 39).

Root usually may; others where the service manager delegated a subtree to them. Where neither is so, what remains are
the limits of `confine.py` (processes, descriptors, file size) and the shim's own eye on memory (`shim_memory.py`).

    version 1   /sys/fs/cgroup/<controller>/<own path>/freecloud-<seed>/<replica>/
                for the processor freecloud-<seed>.<replica>/: what is idle (`shim_share.py`) gives way at once to its
                own level of the tree alone, and there the daemon is
    version 2   /sys/fs/cgroup/<own path>/freecloud-<seed>/<replica>/, the daemon itself moved to a leaf beside it,
                because there a group either has members or hands on controllers

Processor time is a share, not a quota: a replica may use what nobody else wants, and gets its part when all do.
Source: the kernel's admin-guide, `cgroup-v1/` and `cgroup-v2.rst`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.runtimes.procfs import numbers_in
from scheduler.runtimes.runtime import ResourceLimits

CONTROLLERS = ("memory", "pids", "cpu")
ACCOUNTING = "cpuacct"
"""Of version 1, where `cpu` alone does not tell what was used."""

MEMORY_BYTES_MIN = 32 * 1024 * 1024
"""Less would not hold the stages before the app."""

SHARES_OF_A_CORE_V1, WEIGHT_OF_A_CORE_V2 = 1024, 100
"""The kernel's defaults for a group: what a whole core is worth."""


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """Where this node's replicas have their groups.

    Args:
        roots: A folder for each controller, `v2` where one folder stands for all.
    """

    roots: tuple[tuple[str, Path], ...]

    def controls(self, controller: str) -> bool:
        """Whether this resource is bounded."""
        return any(controller in (name, *(CONTROLLERS if name == "v2" else ())) for name, _ in self.roots)

    def prepare(self, group: str, limits: ResourceLimits) -> tuple[str, ...]:
        """Make the groups of one run, with its limits; returns their folders. Empty groups left over are reused."""
        folders = []
        for name, root in self.roots:
            folder = folder_of(name, root, group)
            folder.mkdir(parents=True, exist_ok=True)
            for file, value in _settings(name, limits):
                (folder / file).write_text(value)
            folders.append(str(folder))
        return tuple(folders)


    def release(self) -> None:
        """Remove every group that is empty, the node's own at last: at the end of a node, and safe at any time."""
        for name, root in self.roots:
            _remove_empty(name, root)


def folder_of(controller: str, root: Path, group: str) -> Path:
    """The group of this name for this controller."""
    return root.with_name(f"{root.name}.{group}") if controller == "cpu" else root / group


NO_CONTROL_GROUPS = ControlGroups(())


def find_control_groups(seed: str) -> ControlGroups:
    """What this daemon may use; tried, by making a group.

    Args:
        seed: Tells this node's groups from another's on the same machine.
    """
    roots: list[tuple[str, Path]] = []
    for controllers, mount, own in _hierarchies():
        root = mount / own.lstrip("/") / f"freecloud-{seed}"
        try:
            if controllers == ("v2",):
                _delegate(mount / own.lstrip("/"))
                roots.append(("v2", root))
            else:
                roots.extend((name, root) for name in controllers)
            for name in controllers:
                _remove_empty(name, root)
            root.mkdir(exist_ok=True)
            if controllers == ("cpu",):
                root.rmdir()  # there the replicas' groups stand beside it, not in it
            if controllers == ("v2",):
                (root / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        except OSError:
            roots = [(name, place) for name, place in roots if place != root]
    return ControlGroups(tuple(roots))


def _hierarchies() -> Iterator[tuple[tuple[str, ...], Path, str]]:
    """Each mounted hierarchy: its controllers, its mount point, this process's group in it."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[tuple(sorted(controllers.split(",")))] = path
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split(" ")[4])
        if kind == "cgroup2" and place == Path("/sys/fs/cgroup"):
            yield ("v2",), place, own.get(("",), "/")
        elif kind == "cgroup":
            names = tuple(sorted(set(options.split(",")) & {*CONTROLLERS, ACCOUNTING}))
            if "cpu" in names and ACCOUNTING in names:
                names = tuple(name for name in names if name != ACCOUNTING)  # the same group counts
            mounted = next((key for key in own if names and set(names) <= set(key)), None)
            if mounted is not None:
                yield names, place, own[mounted]


def _delegate(group: Path) -> None:
    """Version 2: hand the controllers on to the groups below, after this daemon has become a leaf."""
    available = (group / "cgroup.controllers").read_text().split()
    if not set(CONTROLLERS) <= set(available):
        raise OSError("not all controllers are delegated")
    members = numbers_in(str(group / "cgroup.procs"))
    if set(members) - {os.getpid()} and group.parent != Path("/sys/fs"):
        raise OSError("others share this daemon's control group")
    if os.getpid() in members:
        leaf = group / "freecloud-daemon"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
    (group / "cgroup.subtree_control").write_text("+memory +pids +cpu")


def _remove_empty(controller: str, root: Path) -> None:
    """Groups with members refuse to go, which is what tells them from those that a killed shim left behind."""
    places = [*root.iterdir(), root] if root.is_dir() else []
    if controller == "cpu":
        places += root.parent.glob(f"{root.name}.*")
    for place in places:
        if place.is_dir():
            with contextlib.suppress(OSError):
                place.rmdir()


def _settings(controller: str, limits: ResourceLimits) -> list[tuple[str, str]]:
    memory = str(max(limits.memory_bytes, MEMORY_BYTES_MIN))
    match controller:
        case "memory":
            return [("memory.limit_in_bytes", memory)]
        case "pids":
            return [("pids.max", str(limits.pids))]
        case "cpuacct":
            return []
        case "cpu":
            return [("cpu.shares", str(max(2, round(limits.cpu * SHARES_OF_A_CORE_V1))))]
        case _:
            weight = min(10_000, max(1, round(limits.cpu * WEIGHT_OF_A_CORE_V2)))
            return [
                ("memory.max", memory),
                ("memory.swap.max", "0"),
                ("pids.max", str(limits.pids)),
                ("cpu.weight", str(weight)),
            ]
