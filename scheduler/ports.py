"""A free port on loopback for an app.

Below the range that the kernel gives to outgoing connections (32768 and up by default), so that no connection of
somebody else takes it between our look and the app's bind; a new one for each run, so that a dying predecessor's
half-closed connections don't refuse it either.
"""

from __future__ import annotations

import errno
import random
import socket

from mesh.errors import ExhaustedError

PORT_FIRST, PORT_LAST = 20_000, 32_000
TRIES_MAX = 200


def free_port(rng: random.Random) -> int:
    """A port that nobody listened on a moment ago."""
    for _ in range(TRIES_MAX):
        port = rng.randint(PORT_FIRST, PORT_LAST)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise
        return port
    raise ExhaustedError(f"no free port among {TRIES_MAX} tried", why=f"between {PORT_FIRST} and {PORT_LAST}")
