"""A daemon that compacts its log all the time: `python -m tests.e2e.impatient`, arguments as `python -m daemon`.

The real one takes a snapshot every 10,000 entries, and its segments hold 4 MiB: no test would see either end.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, cast

import consensus.ledger
from consensus.group_effects import GroupConfig
from consensus.log_store import LogOptions, LogStore
from daemon.__main__ import main

SNAPSHOT_ENTRIES = 5
OPTIONS = LogOptions(segment_bytes=16 * 1024, ballast_bytes=64 * 1024)


def hurry() -> None:
    """Make every ledger of this process take snapshots early, into small segments."""
    ledger = cast(Any, consensus.ledger)
    ledger.GroupConfig = functools.partial(GroupConfig, snapshot_entries=SNAPSHOT_ENTRIES)
    opening = cast(Any, LogStore.open)
    opening.__func__.__kwdefaults__["options"] = OPTIONS


if __name__ == "__main__":
    hurry()
    sys.exit(main(sys.argv[1:]))
