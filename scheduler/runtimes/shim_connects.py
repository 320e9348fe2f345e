# ruff: noqa: PTH123
# `pathlib` would double what a shim weighs.
"""The shim makes its app's connections, where the kernel lets it put no filter on them (attack 35).

Linux 6.18 lets only those who administer the network put a filter on a TCP socket. For others `connect()` itself is
done here: on a copy of the app's descriptor, to an address that was copied first and looked at afterwards. The app's
own call goes on nowhere, so there is nothing left that it could change under way. What a filter would tell by the
packet is asked of the kernel instead: an address that a socket can be bound to is this machine's.

Only on rungs without unix sockets: every connection is an internet one. Other ways to begin one (`MSG_FASTOPEN`) and to
listen (any port but the app's own, by Landlock) are closed in `confine.py`. UDP has its filter everywhere.
Source: pidfd_getfd(2), seccomp_unotify(2).
"""

from __future__ import annotations

import _socket
import ctypes
import fcntl
import os
import select

from scheduler.runtimes.procfs import read_file
from scheduler.runtimes.socket_rules import AF_INET, AF_INET6, AF_UNSPEC, host_of, is_near, port_of

TYPE_CHECKING = False  # what `typing` calls it, without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Callable

PIDFD_GETFD = 438
IS_VALID = 0x40082102
ADDRESS_BYTES_MAX = 28
PENDING_MAX = 256

EAGAIN, EINVAL, EAFNOSUPPORT, ECONNREFUSED, EALREADY, EINPROGRESS = 11, 22, 97, 111, 114, 115


class Connects:
    """Connects in an app's place.

    Args:
        port: The app's own, to which it may connect here.
        answer: Tells the kernel what a request came to: its id, an errno or 0.
        watch, unwatch: Add a descriptor to the loop (with what to wait for), and take it out.
    """

    def __init__(
        self,
        port: int,
        *,
        answer: Callable[[int, int], None],
        watch: Callable[[int, Callable[[], object], int], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._port = port
        self._answer = answer
        self._watch = watch
        self._unwatch = unwatch
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._pending: dict[int, tuple[int, _socket.socket]] = {}

    def connect(self, listener: int, request: int, thread: int, fd: int, place: int, length: int) -> None:
        """Do one request; it is answered now, or when the connection stands or has failed."""
        made = self._copy(listener, request, thread, fd)
        try:
            address = _read_memory(thread, place, min(length, ADDRESS_BYTES_MAX))
            error = self._refusal(made.family, address) or self._begin(made, address)
        except OSError as failure:
            error = failure.errno or EINVAL
        if error in (EINPROGRESS, EALREADY) and os.get_blocking(made.fileno()):
            if len(self._pending) < PENDING_MAX:
                number = made.fileno()
                self._pending[number] = (request, made)
                self._watch(number, lambda: self._finish(number), select.POLLOUT)
                return
            error = EAGAIN
        made.close()
        self._answer(request, error)

    def close(self) -> None:
        """Nobody waits any more."""
        for number in list(self._pending):
            self._unwatch(number)
            self._pending.pop(number)[1].close()

    def _copy(self, listener: int, request: int, thread: int, fd: int) -> _socket.socket:
        words = read_file(f"/proc/{thread}/status").split()
        process = os.pidfd_open(int(words[words.index(b"Tgid:") + 1]))
        try:
            fcntl.ioctl(listener, IS_VALID, request.to_bytes(8, "little"))  # else the number may be a stranger's by now
            copied = self._libc.syscall(PIDFD_GETFD, process, fd, 0)
        finally:
            os.close(process)
        if copied < 0:
            raise OSError(ctypes.get_errno(), "descriptor")
        return _socket.socket(fileno=copied)

    def _refusal(self, family: int, address: bytes) -> int:
        """Why not to this address; 0: go on."""
        if family not in (AF_INET, AF_INET6):
            return EAFNOSUPPORT
        if int.from_bytes(address[:2], "little") == AF_UNSPEC:
            return 0  # takes a connection apart
        allowed = port_of(address) in (self._port, 53)
        return 0 if allowed or not (is_near(address) or _is_ours(address)) else ECONNREFUSED

    def _begin(self, made: _socket.socket, address: bytes) -> int:
        """Its errno. The app's descriptor is the same file: whether it waits is ours for that moment alone."""
        number = made.fileno()
        blocking = os.get_blocking(number)
        os.set_blocking(number, False)
        try:
            failed = self._libc.connect(number, address, len(address)) < 0
            return ctypes.get_errno() if failed else 0
        finally:
            os.set_blocking(number, blocking)

    def _finish(self, number: int) -> None:
        request, made = self._pending.pop(number)
        self._unwatch(number)
        error = made.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        made.close()
        try:
            self._answer(request, error)
        except OSError:
            return  # who asked is dead, or was interrupted


def _read_memory(thread: int, place: int, length: int) -> bytes:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(place)
        return memory.read(length)


def _is_ours(address: bytes) -> bool:
    """Whether this machine has the address."""
    host = host_of(address)
    probe = _socket.socket(AF_INET if "." in host else AF_INET6, _socket.SOCK_DGRAM)
    try:
        probe.bind((host, 0))
    except OSError:
        return False
    finally:
        probe.close()
    return True
