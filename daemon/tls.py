"""The API beyond loopback speaks TLS 1.3 with the node's own certificate; a token carries its pin (rule H2)."""

from __future__ import annotations

import ssl

from daemon.config import is_loopback
from mesh.identity import Identity


def api_tls(identity: Identity, address: str) -> ssl.SSLContext | None:
    """The context for the API's listener, or None on loopback."""
    if is_loopback(address):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(identity.pem_path)
    return context
