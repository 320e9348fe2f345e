"""TCP, and TLS over it, behind the stream seam."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509

from mesh.errors import ProtocolError, RefusedError, UnreachableError, UsageError
from mesh.identity import create_identity
from mesh.tls import STRANGER, TlsContexts, TlsStream, join_context
from mesh.transports.stream import Stream
from mesh.transports.tcp import TcpStream, dial_tcp, split_address
from mesh.trust import TrustStore
from tests.unit.mesh.nodes import Node
from tests.unit.mesh.stream_suite import check_stream


async def tcp_pair() -> tuple[Stream, Stream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    dialled = await dial_tcp(f"127.0.0.1:{port}")
    accepted = TcpStream((await listener.accept()).socket)
    await listener.aclose()
    assert accepted.peer_host() == "127.0.0.1"
    return dialled, accepted


async def test_tcp_is_a_stream() -> None:
    await check_stream(tcp_pair)


async def test_tls_is_a_stream(tmp_path: Path) -> None:
    one, other = (Node(create_identity(tmp_path / name)) for name in "ab")
    trust = TrustStore([one.member(), other.member()])

    async def pair() -> tuple[Stream, Stream]:
        dialled, accepted = await tcp_pair()
        client = TlsStream(
            dialled, TlsContexts(one.identity, trust).dial(other.identity.certificate), server_side=False
        )
        server = TlsStream(accepted, TlsContexts(other.identity, trust).server(), server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
        assert client.peer_certificate() == other.identity.certificate
        assert server.peer_certificate() == one.identity.certificate
        assert client.protocol() == server.protocol() == "freecloud-mesh/1"
        return client, server

    await check_stream(pair)


async def test_a_server_context_follows_the_members(tmp_path: Path) -> None:
    one, other = (Node(create_identity(tmp_path / name)) for name in "ab")
    trust = TrustStore([other.member()])
    contexts = TlsContexts(other.identity, trust)

    async def outcome() -> str | None:
        dialled, accepted = await tcp_pair()
        client = TlsStream(
            dialled, TlsContexts(one.identity, trust).dial(other.identity.certificate), server_side=False
        )
        server = TlsStream(accepted, contexts.server(), server_side=True)
        code: str | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            try:
                await server.handshake()
            except RefusedError as error:
                code = error.stable_code
        for stream in (dialled, accepted):
            await stream.aclose()
        return code

    assert await outcome() == STRANGER
    before = contexts.server()
    trust.update([other.member(), one.member()])
    assert await outcome() is None
    assert contexts.server() is not before
    trust.update([other.member()])
    assert await outcome() == STRANGER


async def test_the_dates_of_a_certificate_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is wrong keeps its links: here both certificates seem to have expired long ago."""
    builder = x509.CertificateBuilder
    keep = builder.not_valid_after
    long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(builder, "not_valid_after", lambda self, _time: keep(self, long_ago))
    one, other = (Node(create_identity(tmp_path / name)) for name in "ab")
    assert b"010101000000Z" in one.identity.certificate
    trust = TrustStore([one.member(), other.member()])
    dialled, accepted = await tcp_pair()
    context = TlsContexts(one.identity, trust).dial(other.identity.certificate)
    client = TlsStream(dialled, context, server_side=False)
    server = TlsStream(accepted, TlsContexts(other.identity, trust).server(), server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        nursery.start_soon(server.handshake)
    assert server.peer_certificate() == one.identity.certificate
    for stream in (dialled, accepted):
        await stream.aclose()


async def test_a_session_is_never_resumed(tmp_path: Path) -> None:
    """A resumed session would carry yesterday's answer of the trust store; the server gives out no ticket."""
    one = Node(create_identity(tmp_path))
    context = TlsContexts(one.identity, TrustStore([one.member()])).server()
    dialled, accepted = await tcp_pair()
    client = TlsStream(dialled, join_context(), server_side=False)
    server = TlsStream(accepted, context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        nursery.start_soon(server.handshake)
    await server.send_all(b"x")
    assert await client.receive_some(1) == b"x"
    session = client._tls.session
    assert session is None or not session.has_ticket
    for stream in (dialled, accepted):
        await stream.aclose()


async def test_what_is_not_tls_is_refused(tmp_path: Path) -> None:
    one = Node(create_identity(tmp_path))
    context = TlsContexts(one.identity, TrustStore([one.member()])).server()
    for rubbish in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10, b"\0" * 600):
        dialled, accepted = await tcp_pair()
        await dialled.send_all(rubbish)
        with pytest.raises(ProtocolError):
            await TlsStream(accepted, context, server_side=True).handshake()
        await accepted.aclose()
        await dialled.aclose()
    dialled, accepted = await tcp_pair()
    await dialled.aclose()
    with pytest.raises(UnreachableError):
        await TlsStream(accepted, context, server_side=True).handshake()
    await accepted.aclose()


async def test_nobody_there_is_unreachable_with_the_systems_reason() -> None:
    with pytest.raises(UnreachableError, match="refused"):
        await dial_tcp("127.0.0.1:1")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("10.0.0.1:6700", ("10.0.0.1", 6700)),
        ("[fe80::1]:80", ("fe80::1", 80)),
        ("home.example:1", ("home.example", 1)),
        ("fe80::1:80", None),
        ("host", None),
        (":80", None),
        ("host:", None),
        ("host:0", None),
        ("host:65536", None),
        ("host:²", None),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int] | None) -> None:
    if parts is None:
        with pytest.raises(UsageError):
            split_address(address)
    else:
        assert split_address(address) == parts
