"""Planted bugs of consensus and its host, 1 to 18 of the faults page."""

from __future__ import annotations

from tests.sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
