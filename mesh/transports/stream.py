"""The seam between a link and whatever carries its bytes: TCP now, other transports behind the same methods."""

from __future__ import annotations

from typing import Protocol


class Stream(Protocol):
    """Bytes in order, both ways, between two ends.

    One task may send while another receives; two may not do the same at once. After `aclose` both methods raise
    `trio.ClosedResourceError`; when the other end or the way to it breaks they raise `trio.BrokenResourceError`.
    There is deliberately no time limit here: the caller's cancel scope is the only deadline.
    """

    async def send_all(self, payload: bytes) -> None:
        """Hand all bytes over; returns when they have left this process, and never buffers without bound."""

    def try_send(self, payload: bytes) -> bool:
        """Take a little to send without waiting, while no task is in `send_all`; True when all of it has left.

        What has not leaves ahead of the next `send_all`, which the caller owes; that also tells of what is broken.
        """

    async def receive_some(self, bytes_max: int) -> bytes:
        """At least one byte, or b"" when the other end sends no more."""

    async def aclose(self) -> None:
        """Close at once, both ways; what was handed over before may still arrive. Closing twice is fine."""


class Dialler(Protocol):
    """A transport, as the one who opens a connection sees it."""

    async def __call__(self, address: str) -> Stream:
        """A stream to whoever listens at this address.

        Raises:
            UnreachableError: Nobody does, or the address makes no sense.
        """
