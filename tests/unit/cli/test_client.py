"""The command's client against whoever answers instead of the node: not a byte is sent, and what comes is bounded."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.client import Client
from mesh.errors import FreecloudError, UnreachableError, UsageError
from mesh.identity import Identity, create_identity


@contextmanager
def listening(identity: Identity) -> Iterator[tuple[str, list[bytes]]]:
    """A TLS server with this certificate that keeps what it is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.pem_path)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            try:
                raw, _ = listener.accept()
                raw.settimeout(10)
                with raw, context.wrap_socket(raw, server_side=True) as tls:
                    heard.append(tls.recv(65536))
                    if heard[-1]:
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except OSError:
                heard.append(b"")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}", heard
        finally:
            thread.join(timeout=15)
            assert not thread.is_alive()


def token_for(certificate: bytes) -> str:
    return f"fct_ab12_{'x' * 24}_{hashlib.sha256(certificate).hexdigest()}"


def test_a_server_with_another_certificate_is_sent_no_byte_and_no_token(tmp_path: Path) -> None:
    node, impostor = create_identity(tmp_path / "node"), create_identity(tmp_path / "impostor")
    with listening(impostor) as (url, heard), pytest.raises(UnreachableError) as refused:
        Client(tmp_path / "none", node=url, token=token_for(node.certificate)).get("/v1/status")
    assert heard == [b""]
    assert "certificate" in refused.value.why
    with listening(node) as (url, heard):
        token = token_for(node.certificate)
        assert Client(tmp_path / "none", node=url, token=token).get("/v1/status") == {}
    assert token.encode() in heard[0]


def test_a_server_without_tls_is_sent_no_token(tmp_path: Path) -> None:
    identity = create_identity(tmp_path / "node")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        heard: list[bytes] = []

        def serve() -> None:
            raw, _ = listener.accept()
            with raw:
                raw.settimeout(10)
                heard.append(raw.recv(65536))
                raw.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(FreecloudError):
            Client(tmp_path / "none", node=url, token=token_for(identity.certificate)).get("/v1/status")
        thread.join(timeout=15)
    assert b"fct_" not in b"".join(heard)
    assert b"HTTP" not in b"".join(heard)


@pytest.mark.parametrize(
    ("node", "token"),
    [
        ("https://127.0.0.1:1", "fct_short"),
        ("https://127.0.0.1:1", ""),
        ("http://192.0.2.1:1", token_for(b"x")),
        ("127.0.0.1:1", token_for(b"x")),
        ("https://:1", token_for(b"x")),
        ("https://x:99999", token_for(b"x")),
        ("ftp://x", token_for(b"x")),
    ],
)
def test_what_cannot_be_asked_safely_is_not_asked(node: str, token: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as told:
        Client(tmp_path / "none", node=node, token=token).get("/v1/status")
    assert not token or token not in str(told.value)
