"""The node's listening sockets: named ports must be free, others give way, and what was chosen is kept."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

import trio

from daemon.config import DEFAULT_ADDRESS, Config, is_loopback, split_address
from daemon.home import Home, load_ports, save_ports
from mesh.errors import FailedError, UsageError

TRIES = 200
"""So many ports above the default are tried; five nodes on one machine need three each."""

BACKLOG = 512

LINK_SEGMENT_BYTES = 1220
"""What one packet of a link carries, both ways: such a packet has 1,280 bytes, IPv6's least (RFC 8200 §5), which every
path passes. Larger ones vanish without a word where a tunnel's refusals are filtered: the links would stand, gossip
and heartbeats pass, and whatever is large never arrive (fault N8). Costs nothing on loopback, where it is not asked."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets, not yet served; closed by whoever serves them."""

    mesh: socket.socket
    gossip: socket.socket
    http: socket.socket
    ingress: socket.socket
    unix: socket.socket
    addresses: dict[str, str]
    notices: tuple[str, ...]

    def close(self) -> None:
        """Let go of every port; closing what its server closed already does no harm."""
        for one in (self.mesh, self.gossip, self.http, self.ingress, self.unix):
            one.close()


def open_listeners(config: Config, home: Home) -> Listeners:
    """Bind everything, or nothing.

    Raises:
        FailedError: A named port is taken (`port.taken`).
        UsageError: An address that is not this machine's.
    """
    stored = load_ports(home)
    named = {"mesh": config.listen, "http": config.http, "ingress": config.ingress}
    notices: list[str] = []
    bound: list[socket.socket] = []
    addresses: dict[str, str] = {}
    try:
        for name, wanted in named.items():
            sockets, address = _bind(name, wanted, stored.get(name), notices)
            bound.extend(sockets)
            addresses[name] = address
        unix = _unix_listener(home)
    except BaseException:
        for opened in bound:
            opened.close()
        raise
    save_ports(home, addresses)
    mesh, gossip, http, ingress = bound
    return Listeners(mesh, gossip, http, ingress, unix, addresses, tuple(notices))


def _bind(name: str, wanted: str | None, stored: str | None, notices: list[str]) -> tuple[list[socket.socket], str]:
    if wanted is not None:
        host, port = split_address(wanted)
        sockets = _try_bind(name, host, port)
        if sockets is None:
            raise FailedError(
                f"port {port} on {host} is taken",
                hint=f"choose another, or leave out --{_flag(name)}",
                code="port.taken",
            )
        return sockets, _address_of(host, sockets[0])
    first = stored or DEFAULT_ADDRESS[name]
    host, port = split_address(first)
    for candidate in range(port, min(port + TRIES, 65536)):
        sockets = _try_bind(name, host, candidate)
        if sockets is not None:
            if candidate != port:
                notices.append(f"port {port} is taken; {name} listens on {candidate}")
            return sockets, _address_of(host, sockets[0])
    raise FailedError(f"no free port from {port} on", hint=f"choose one with --{_flag(name)}", code="port.taken")


def _try_bind(name: str, host: str, port: int) -> list[socket.socket] | None:
    """TCP, and for the mesh UDP on the same port; None if either is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM)
    opened = [tcp]
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if name == "mesh" and not is_loopback(f"{host}:{port}"):
            # Who accepts decides for both sides: it announces this size, and takes the smaller of the two.
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, LINK_SEGMENT_BYTES)
        tcp.bind((host, port))
        tcp.listen(BACKLOG)
        if name == "mesh":
            udp = socket.socket(family, socket.SOCK_DGRAM)
            opened.append(udp)
            udp.bind((host, tcp.getsockname()[1]))
    except OSError as error:
        for one in opened:
            one.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise UsageError(
            f"cannot listen on {host}:{port}",
            why=(error.strerror or str(error)).lower(),
            hint=f"give --{_flag(name)} an address of this machine",
        ) from error
    for one in opened:
        one.setblocking(False)
    return opened


def _unix_listener(home: Home) -> socket.socket:
    """The owner's socket: 0600 from its first moment. The home's lock is held, so a left-over file is nobody's."""
    home.socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(home.socket))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _address_of(host: str, bound: socket.socket) -> str:
    return f"[{host}]:{bound.getsockname()[1]}" if ":" in host else f"{host}:{bound.getsockname()[1]}"


def _flag(name: str) -> str:
    return "listen" if name == "mesh" else name


def trio_listener(bound: socket.socket) -> trio.SocketListener:
    """A bound socket as trio serves it."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))
