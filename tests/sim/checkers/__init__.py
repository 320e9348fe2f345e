"""What must always hold, one checker a file; each knows a history or a stream of observations and nothing else.

A checker raises `Violation` (violation.py). The online ones are fed by the world after every event; the ones over
histories run at the end of a seed. Each is itself tested on histories made wrong by hand, in tests/unit/sim.
"""
