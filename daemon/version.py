"""The program's version and the feature level it announces (rule T6)."""

VERSION = "0.1.0"

FEATURE_LEVEL = 1
"""Raised with the first release that writes something an older program cannot read."""
