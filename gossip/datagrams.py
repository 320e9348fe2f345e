"""The UDP socket: many datagrams a wake-up, never a wait in a send.

Measured: draining up to 64 datagrams a wake-up takes 650,000 a second, one await each 80,000.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import trio

DRAIN_MAX = 64
"""Datagrams taken before the other tasks get their turn."""

READ_BYTES = 2048
"""Of one datagram; what is longer than our own limit is cut off here and then fails to open."""

NAMES_MAX = 1024
NAME_KEPT_S = 60.0
"""How long a resolved host name is believed: home links change their address about once a day."""


@dataclass(frozen=True, slots=True)
class DatagramStatistics:
    received: int
    sent: int
    unsent: int  # no room, no route, no such host


class Datagrams:
    """Wraps a bound, non-blocking UDP socket; closes only its own copy of it."""

    def __init__(self, bound: socket.socket | trio.socket.SocketType) -> None:
        # trio's socket has no non-blocking calls; a duplicate of the descriptor has the same queue.
        self._socket = socket.fromfd(bound.fileno(), bound.family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._names: dict[str, tuple[float, tuple[str, int] | None]] = {}
        self._resolving: set[str] = set()
        self._received = 0
        self._sent = 0
        self._unsent = 0

    def close(self) -> None:
        self._socket.close()

    def statistics(self) -> DatagramStatistics:
        return DatagramStatistics(self._received, self._sent, self._unsent)

    async def wait(self) -> None:
        """Return when there is something to drain."""
        await trio.lowlevel.wait_readable(self._socket)

    def drain(self) -> Iterator[tuple[bytes, str]]:
        """Up to `DRAIN_MAX` datagrams with where each came from."""
        for _ in range(DRAIN_MAX):
            try:
                datagram, source = self._socket.recvfrom(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                # An ICMP answer to something sent earlier; it says nothing about what is still queued.
                if error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                    raise
                continue
            self._received += 1
            yield datagram, joined(source[0], source[1])

    def send_nowait(self, address: str, datagram: bytes) -> bool:
        """Send now, or not at all: False when it did not leave this machine."""
        target = self._resolved(address)
        if target is not None:
            try:
                self._socket.sendto(datagram, target)
            except OSError:  # no room, no route, too long for the path: the caller counts it as a failed probe
                target = None
        if target is None:
            self._unsent += 1
            return False
        self._sent += 1
        return True

    def unresolved(self, address: str) -> bool:
        """Whether this address has a host name that `resolve` has to look up first."""
        if address in self._resolving or numeric(address) is not None:
            return False
        known = self._names.get(address)
        return known is None or trio.current_time() >= known[0]

    async def resolve(self, address: str) -> None:
        """Look up a host name, so that the next send need not wait for it."""
        self._resolving.add(address)
        found: tuple[str, int] | None = None
        try:
            host, port = split(address)
            with trio.move_on_after(5.0):
                answers = await trio.socket.getaddrinfo(
                    host, port, family=self._socket.family, type=socket.SOCK_DGRAM
                )
                found = (str(answers[0][4][0]), port)
        except (OSError, UnicodeError, ValueError):
            found = None
        finally:
            self._resolving.discard(address)
        if len(self._names) >= NAMES_MAX:
            self._names.clear()
        self._names[address] = (trio.current_time() + NAME_KEPT_S, found)

    def _resolved(self, address: str) -> tuple[str, int] | None:
        target = numeric(address)
        if target is None and address in self._names:
            target = self._names[address][1]
        return target


def joined(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """The host and the port of host:port.

    Raises:
        ValueError: There is no port in it.
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def numeric(address: str) -> tuple[str, int] | None:
    """The address as a socket takes it, if it needs no look-up."""
    try:
        host, port = split(address)
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return (host, port) if 0 < port < 65536 else None
