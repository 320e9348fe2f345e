"""One probe of a replica: an HTTP request or a connection, to loopback, within its timeout; no redirect is followed."""

from __future__ import annotations

import os

import trio

STATUS_LINE_BYTES_MAX = 8192

GOOD_STATUSES = range(200, 400)
"""As everywhere (Kubernetes, Nomad): a redirect to a login page is a healthy answer; it is not followed."""


async def probe(port: int, path: str, timeout_s: float) -> str | None:
    """Ask once.

    Args:
        port: On 127.0.0.1.
        path: Target of a GET; "" means that a connection is enough.
        timeout_s: For everything together.

    Returns:
        None when it is well, else what is wrong, for people.
    """
    with trio.move_on_after(timeout_s):
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                return await _get(stream, port, path) if path else None
        except OSError as error:
            return f"no connection to port {port}: {_root(error)}"
        except trio.BrokenResourceError:
            return "the connection broke before an answer came"
    return f"no answer within {timeout_s:g} s"


async def _get(stream: trio.SocketStream, port: int, path: str) -> str | None:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: freecloud-health\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    await stream.send_all(request.encode("ascii", errors="replace"))
    received = b""
    while b"\r\n" not in received:
        chunk = await stream.receive_some(STATUS_LINE_BYTES_MAX)
        received += chunk
        if not chunk or len(received) > STATUS_LINE_BYTES_MAX:
            return "the answer is not HTTP"
    words = received.partition(b"\r\n")[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return "the answer is not HTTP"
    status = int(words[1])
    return None if status in GOOD_STATUSES else f"GET {path} answered {status}"


def _root(error: OSError) -> str:
    """trio gathers one error an address; the first says it."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else error
    return os.strerror(found.errno) if found.errno else str(found)
