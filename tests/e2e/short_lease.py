"""A daemon whose apps wait for it only a moment: `python -m tests.e2e.short_lease`, arguments as `python -m daemon`.

The shims of the real one give it 60 s (8 s where an app is exclusive) to come back: no test would see the end of that.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import scheduler.replica
import scheduler.surroundings
from daemon.__main__ import main

LIMIT_S, RENEW_EVERY_S = 4.0, 0.5


def shorten() -> None:
    """Make every replica of this process short of patience."""
    cast(Any, scheduler.surroundings).RENEWAL_LIMIT_S = LIMIT_S
    cast(Any, scheduler.replica).RENEW_EVERY_S = RENEW_EVERY_S


if __name__ == "__main__":
    shorten()
    sys.exit(main(sys.argv[1:]))
