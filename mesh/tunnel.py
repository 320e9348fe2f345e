"""A byte tunnel to another node's handler, over a stream of the link: what ingress and `apps exec` run through.

Who answers is named by kind and an opaque header, never by an address, so a tunnel cannot be made to lead elsewhere
(attack 15). The handler accepts by using the stream; until then its error travels to the opener.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from mesh.framing import PAYLOAD_BYTES_MAX
from mesh.link_streams import MuxStream
from mesh.mux_events import ResetReason

_PIPE_CHUNKS = 8  # between two tasks of one node: as many pieces as one of them may run ahead


class Tunnel(Protocol):
    """A `Stream` that can be closed one way."""

    async def send_all(self, payload: bytes) -> None: ...

    async def receive_some(self, bytes_max: int) -> bytes: ...

    async def send_eof(self) -> None:
        """Nothing more follows; receiving goes on."""

    async def aclose(self) -> None: ...


class RemoteTunnel:
    """One end of a tunnel over a link.

    Args:
        stream: The stream that carries it.
        acceptance: What the answering end says before its first use; b"" at the opening end.
    """

    def __init__(self, stream: MuxStream, acceptance: bytes = b"") -> None:
        self._stream = stream
        self._acceptance = acceptance
        self.accepted = not acceptance
        self.closed = False
        self.opening: trio.CancelScope | None = None  # its deadline holds until the tunnel is accepted

    async def accept(self) -> None:
        """Say to the opener that the tunnel is open; the first use of the stream does so too."""
        if not self.accepted:
            self.accepted = True
            if self.opening is not None:
                self.opening.deadline = float("inf")
            await self._stream.send(self._acceptance)

    async def send_all(self, payload: bytes) -> None:
        await self.accept()
        with memoryview(payload) as view:
            for start in range(0, len(view), PAYLOAD_BYTES_MAX):
                # Copied: the caller may use its buffer again once this returns, and the queue outlives the call.
                await self._stream.send(bytes(view[start : start + PAYLOAD_BYTES_MAX]))

    async def receive_some(self, bytes_max: int = 64 * 1024) -> bytes:
        await self.accept()
        return await self._stream.receive_some(bytes_max)

    async def send_eof(self) -> None:
        await self.accept()
        self._stream.end()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close both ways; what was sent still leaves, and the other end reads an end after it."""
        self.closed = True
        self._stream.end()
        self._stream.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close without sending what is queued; the peer's end breaks."""
        self.closed = True
        self._stream.reset(ResetReason.FAILED)


class LocalTunnel:
    """One end of a tunnel within this node: two bounded channels."""

    def __init__(
        self, outgoing: trio.MemorySendChannel[bytes], incoming: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._rest = b""
        self._other: LocalTunnel | None = None
        self._broken = False
        self.used = False
        self.on_used: Callable[[], None] | None = None

    async def send_all(self, payload: bytes) -> None:
        self._use()
        with memoryview(payload) as view:
            for start in range(0, len(view), PAYLOAD_BYTES_MAX):
                await self._outgoing.send(bytes(view[start : start + PAYLOAD_BYTES_MAX]))

    async def receive_some(self, bytes_max: int = 64 * 1024) -> bytes:
        self._use()
        if not self._rest:
            try:
                self._rest = await self._incoming.receive()
            except trio.EndOfChannel:
                if self._broken:
                    raise trio.BrokenResourceError("the other end of the tunnel failed") from None
                return b""
        taken, self._rest = self._rest[:bytes_max], self._rest[bytes_max:]
        return taken

    async def send_eof(self) -> None:
        self._use()
        await self._outgoing.aclose()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self._outgoing.close()
        self._incoming.close()

    def abort(self) -> None:
        """Close, and have the other end break."""
        if self._other is not None:
            self._other._broken = True
        self.close()

    def _use(self) -> None:
        if not self.used:
            self.used = True
            if self.on_used is not None:
                self.on_used()


def local_tunnel() -> tuple[LocalTunnel, LocalTunnel]:
    """Both ends of a tunnel within this node."""
    there, from_here = trio.open_memory_channel[bytes](_PIPE_CHUNKS)
    back, from_there = trio.open_memory_channel[bytes](_PIPE_CHUNKS)
    one, other = LocalTunnel(there, from_there), LocalTunnel(back, from_here)
    one._other, other._other = other, one
    return one, other
