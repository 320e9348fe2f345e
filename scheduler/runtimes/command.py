"""The manifest's `command` as something to execute: a shell line, because people write `$PORT` in it. Pure."""

from __future__ import annotations

import re

_COMPOUND = re.compile(r"[;&|<>()`\n{}]|\bexec\b")


def shell_command(command: str) -> tuple[str, ...]:
    """The arguments that run this line.

    A plain command replaces the shell: signals and exit status are then the app's own, not those of a shell that
    dies of SIGTERM before its child has finished its work.
    """
    line = command.strip()
    return ("/bin/sh", "-c", line if _COMPOUND.search(line) else f"exec {line}")
