"""The shim's control socket: who may speak, how much, and how long silently. What is said means nothing here.

Imported by the shim: small C modules only, hence `_socket` (`socket` brings `enum` and 1.2 MB).
"""

from __future__ import annotations

import _socket
import os
import sys
import time

from scheduler.runtimes.shim_wire import decode, encode, refusal

TYPE_CHECKING = False  # what `typing` calls it, without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REQUEST_BYTES_MAX = 4096
CLIENTS_MAX = 8
CLIENT_SILENT_S_MAX = 5.0


class Client:
    """One connection to the control socket."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.watching = False  # it is told when the run has ended
        self.silent_since = time.monotonic()


class ControlSocket:
    """Listens in the current folder, by a relative path: an absolute one may be too long for a socket (107 bytes).

    Args:
        name: Of the socket's file, which is for its owner alone (0600).
        watch, unwatch: Add a descriptor to the loop, and take it out.
        serve: Does one request and gives the answer.
    """

    def __init__(
        self,
        name: str,
        *,
        watch: Callable[[int, Callable[[], object]], None],
        unwatch: Callable[[int], None],
        serve: Callable[[Client, dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._name = name
        self._watch = watch
        self._unwatch = unwatch
        self._serve = serve
        self._clients: dict[int, Client] = {}
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        mask = os.umask(0o177)
        self._listener.bind(name)
        os.umask(mask)
        self._listener.listen(CLIENTS_MAX)
        self._listener.setblocking(False)
        watch(self._listener.fileno(), self._accept)

    def drop_silent(self) -> None:
        """Close connections on which nobody asks anything."""
        now = time.monotonic()
        for client in list(self._clients.values()):
            if not client.watching and now - client.silent_since > CLIENT_SILENT_S_MAX:
                self._drop(client)

    def close(self, last_word: dict[str, Any]) -> None:
        """Stop listening, tell those who watch, and hang up."""
        self._listener.close()
        os.unlink(self._name)  # noqa: PTH108 - `pathlib` would double what a shim weighs
        for client in list(self._clients.values()):
            if client.watching:
                self._answer(client, last_word)
            self._drop(client)

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            return
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=fd)
        sock.setblocking(False)
        uid = int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)
        if uid not in (0, os.getuid()) or len(self._clients) >= CLIENTS_MAX:
            sock.close()
            return
        client = Client(sock)
        self._clients[fd] = client
        self._watch(fd, lambda: self._read(client))

    def _read(self, client: Client) -> None:
        try:
            chunk = client.sock.recv(REQUEST_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        client.received += chunk
        client.silent_since = time.monotonic()
        if not chunk or len(client.received) > REQUEST_BYTES_MAX:
            self._drop(client)
            return
        while b"\n" in client.received:
            line, _, client.received = client.received.partition(b"\n")
            try:
                request = decode(line.decode())
            except ValueError as error:
                self._answer(client, refusal("request", str(error)))
                self._drop(client)
                return
            self._answer(client, self._serve(client, request))

    def _answer(self, client: Client, answer: dict[str, Any]) -> None:
        try:
            client.sock.send(encode(answer).encode() + b"\n")
        except OSError:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        fd = client.sock.fileno()
        if self._clients.pop(fd, None) is not None:
            self._unwatch(fd)
            client.sock.close()
