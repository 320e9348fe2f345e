"""Whether a request over TCP was meant for this node, and does not come from a foreign page (attacks 29 and 30).

A page in the owner's browser can point a name of its own at this machine (DNS rebinding): its requests then arrive
here with that name as their Host. So Host must be a name or an address that is this node's. An address cannot be
rebound: where the node listens beyond loopback, every address is good, for it may have many.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from starlette.requests import Request

from daemon.config import is_loopback, split_address
from mesh.errors import RefusedError


class Origins:
    """The names that one node goes by.

    Args:
        address: Where its API listens.
        others: Further HOST:PORT that name it, such as the one it advertises.
    """

    def __init__(self, address: str, others: Iterable[str] = ()) -> None:
        names = {"localhost", "127.0.0.1", "::1"}
        names |= {split_address(each)[0].lower() for each in (address, *others)}
        self._beyond_loopback = not is_loopback(address)
        if self._beyond_loopback:
            names.add(socket.gethostname().lower())
        self._names = frozenset(names)

    def check(self, request: Request) -> None:
        """Raises RefusedError for a foreign Host, or an Origin that is not this very node's."""
        host = request.headers.get("host", "")
        if not self._is_ours(host_name(host)):
            raise RefusedError("this node does not go by that name", why="the Host header is foreign", code="host")
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            raise RefusedError("this request comes from a foreign page", why="its Origin is foreign", code="origin")

    def _is_ours(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._beyond_loopback


def host_name(host: str) -> str:
    """The name in a Host header, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
