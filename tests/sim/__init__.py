"""One deterministic world for the protocol cores of whole nodes.

`World` (world.py) owns a heap of events, drawn from one seed; nodes (node.py) run the real machines over a simulated
network (network.py), disk (disk.py) and clocks (clock.py). Faults (faults/), workloads (workloads/) and checkers
(checkers/) are small files that know nothing of each other; the seed pairs them (options.py). First comes a safety
phase in which anything may happen, then a liveness phase in which a connected core must finish its work in time.

The simulator never runs through trio, reads no clock and no global chance: the same seed gives the same trace, byte
for byte.

Source: FoundationDB's simulation (workloads times faults), TigerBeetle's `vopr.zig` (safety, then liveness).
"""
