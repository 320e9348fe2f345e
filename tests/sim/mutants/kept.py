"""The seed that caught each planted bug; written by `python -m tests.sim.hunt --keep`."""

from __future__ import annotations

from tests.sim.mutants.mutant import Kept

KEPT: dict[str, Kept] = {}
