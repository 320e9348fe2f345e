"""The simulator's own parts: clocks, disk, network, and checkers on histories made wrong by hand."""
