"""What can go wrong, one fault a file: `strike(world, rng)` does it once and says in words what it did, or None.

A fault knows no workload and no checker, and arranges its own end. It leaves hosts of a calm core alone.
"""
