"""The first thing that both ends of a link say: who, of which mesh and epoch, how far, in which life (T1, T3, T5).

It is sent once the peer's certificate has been found in the trust store, so a stranger never sees one.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from mesh.errors import ProtocolError, RefusedError, UnreachableError
from mesh.framing import HELLO_BYTES_MAX, Frame, FrameDecoder, FrameKind, encode_frame
from mesh.last_word import Dismissed, read_last_word
from mesh.names import MeshId, NodeId
from mesh.tls import STRANGER, TlsStream
from mesh.versioned import Codec, Limits

LINK = Codec(Limits(total_bytes_max=HELLO_BYTES_MAX, text_bytes_max=256, bytes_max=64, items_max=16))

_RECEIVE_BYTES = 32 * 1024


@LINK.message("link.hello")
@dataclass(frozen=True, slots=True)
class Hello:
    """A node at the moment it opens a link. Whose ledger index is lower catches up; that is not done here."""

    mesh_id: MeshId
    node_id: NodeId
    epoch: int
    ledger_index: int
    store_id: bytes
    boot_counter: int
    boot_nonce: bytes
    program_version: str
    feature_level: int
    addresses: tuple[str, ...]  # host:port of its mesh listener


@dataclass(slots=True)
class Greeted:
    """What the exchange of hellos leaves behind: the peer's hello, and its frames that came with it."""

    hello: Hello
    decoder: FrameDecoder
    early: list[Frame]


async def exchange_hellos(tls: TlsStream, own: Hello, expected: NodeId) -> Greeted:
    """Send ours, await theirs; the caller's cancel scope is the limit.

    Args:
        tls: After its handshake, the peer's certificate found in the trust store.
        own: Our hello.
        expected: Whose certificate the peer showed.

    Raises:
        Dismissed: The peer knows us, and has closed the link for good.
        RefusedError: The peer does not know us (`STRANGER`), or belongs to another mesh (`link.foreign`).
        UnreachableError: The connection ended.
        ProtocolError: What came was no hello, or another node's.
    """
    decoder = FrameDecoder()
    frames: list[Frame] = []
    try:
        await tls.send_all(encode_frame(FrameKind.HELLO, LINK.encode(own)))
        while not frames:
            received = await tls.receive_some(_RECEIVE_BYTES)
            if not received:
                raise UnreachableError("the peer closed the link before it said who it is")
            frames.extend(decoder.feed(received))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        if tls.refused:
            raise RefusedError("the peer does not know this node as a member", code=STRANGER) from error
        raise UnreachableError("the link broke before the peer said who it is", why=str(error)) from error
    if frames[0].kind == FrameKind.LAST_WORD:
        raise Dismissed(read_last_word(frames[0].payload))
    if frames[0].kind != FrameKind.HELLO:
        raise ProtocolError(
            "a link begins with a hello", why=f"the peer sent a {FrameKind(frames[0].kind).name}"
        )
    hello = LINK.decode(frames[0].payload, Hello)
    if hello.node_id != expected:
        raise ProtocolError("the peer's hello names another node than its certificate")
    if hello.mesh_id != own.mesh_id:
        raise RefusedError("the peer belongs to another mesh", why=hello.mesh_id, code="link.foreign")
    return Greeted(hello, decoder, frames[1:])
