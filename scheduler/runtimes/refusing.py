"""The runtime of a node on which no sandbox works and whose owner did not say `--unsandboxed`: it runs nothing (A3)."""

from __future__ import annotations

import sys
from pathlib import Path

from mesh.errors import RefusedError
from scheduler.runtimes.runtime import Launch, Run
from scheduler.runtimes.sandbox import Sandbox, sandbox_without_rung
from scheduler.runtimes.sandbox_probe import interpreters


class RefusingRuntime:
    """Refuses every start, and finds nothing to adopt."""

    async def start(self, launch: Launch, *, deadline: float) -> Run:
        raise RefusedError(
            "this node takes no apps",
            why="no sandbox works here",
            hint="install bubblewrap, or start it with --unsandboxed",
            code="sandbox.none",
        )

    async def adopt(self, run_folder: Path, run_id: str, *, entitled: float, deadline: float) -> Run | None:
        return None

    async def abandon(self, run_folder: Path) -> None:
        return None


def no_rung(seed: str) -> Sandbox:
    """The sandbox that such a node names; nothing is ever started in it."""
    return sandbox_without_rung(seed, interpreters()[0], sys.executable)
