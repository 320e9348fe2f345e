"""Planted bugs: each breaks one rule of the product for the length of a run, and a checker has to notice.

A mutant is a patch of a class of the product, applied by the tests alone; the product has no switch for it. Each file
holds the mutants of one module and, for each, the seed that caught it: the suite replays those, the hunter
(`python -m tests.sim.hunt`) finds them anew.

Source: the faults page, section 4, whose numbers are kept.
"""
