"""The three priorities of a link: what is urgent never waits behind what is large."""

from __future__ import annotations

from enum import IntEnum


class Lane(IntEnum):
    """Lower goes first, always: whatever a lane has to send leaves before any frame of the lanes after it."""

    CONSENSUS = 0  # heartbeats, votes, appends
    CONTROL = 1  # gossip, calls between daemons, anything a person waits for
    BULK = 2  # bundles, logs, byte tunnels
