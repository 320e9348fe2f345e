"""The manifest's `command` as something to execute: a shell line, because people write `$PORT` in it. Pure."""

from __future__ import annotations

import re

_COMPOUND = re.compile(r"[;&|<>()`\n{}]|\bexec\b")
_ASSIGNMENTS = re.compile(r"^(?:[A-Za-z_][A-Za-z0-9_]*=[^\s'\"$\\]*\s+)+")


_BUILTINS = frozenset(
    (
        *(".", ":", "alias", "break", "case", "cd", "command", "continue", "eval", "exit", "export", "for", "getopts"),
        *("if", "readonly", "return", "set", "shift", "times", "trap", "ulimit", "umask", "unset", "until", "wait"),
        "while",
    )
)
"""Words that only a shell understands: `exec` would look for programs of these names."""


def shell_command(command: str) -> tuple[str, ...]:
    """The arguments that run this line.

    A plain command replaces the shell: signals and exit status are then the app's own, not those of a shell that
    dies of SIGTERM before its child has finished its work. Assignments before it stay where they are.
    """
    line = command.strip()
    assignments = _ASSIGNMENTS.match(line)
    start = assignments.end() if assignments else 0
    program = line[start:].split(maxsplit=1)[:1]
    if program and program[0] not in _BUILTINS and not _COMPOUND.search(line):
        line = f"{line[:start]}exec {line[start:]}"
    return ("/bin/sh", "-c", line)
