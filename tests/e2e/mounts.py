"""File systems of a test's own: a small one in memory that can be full, one on a file whose power can be cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cluster import wait_until

SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
"""_IOR('X', 125, u32) of ext4 and xfs: from now on nothing reaches the medium any more."""

NO_FLUSH = 2
"""What the journal holds in memory is lost too."""


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of this size in memory, mounted at the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=711", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount at all."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return done.returncode == 0


def fill(folder: Path) -> Path:
    """Take all the room that is left there; removing the returned file gives it back."""
    filler = folder / "filler"
    piece = bytes(64 * 1024)
    with filler.open("wb", buffering=0) as file:
        while piece:
            try:
                file.write(piece)
            except OSError:
                piece = piece[: len(piece) // 2]  # the last page, byte by byte
    return filler


class PowerDisk:
    """ext4 on a file: after `cut`, `restore` shows what a machine finds when its power comes back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".img")

    @staticmethod
    def works() -> bool:
        """Whether there are loop devices, and somebody to make an ext4."""
        return os.geteuid() == 0 and Path("/dev/loop-control").exists() and shutil.which("mkfs.ext4") is not None

    def make(self, size_bytes: int) -> None:
        with self._image.open("wb") as image:
            image.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._image)], check=True)
        self.folder.mkdir()
        self.restore()
        self.folder.chmod(0o711)

    def cut(self) -> None:
        """Whatever was not synced is gone from this moment; open files give errors."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """The power is back: mount it, which replays its journal."""
        self.remove()
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.folder)], check=True)

    def remove(self) -> None:
        """Unmount it, as soon as nobody has a file of it open; no harm if it is not mounted."""
        wait_until(f"{self.folder} is unmounted", self._is_unmounted)

    def _is_unmounted(self) -> bool:
        if self.folder.is_mount():
            subprocess.run(["umount", str(self.folder)], capture_output=True)
        return not self.folder.is_mount()
