# ruff: noqa: PTH123
# `pathlib` would double what a shim weighs.
"""The shim makes its app's internet sockets: each with the filter of `socket_rules.py` on it (attack 35).

The app's `socket()` is stopped by its system call filter and told to the shim (seccomp's user notification, Linux
5.9). The shim makes the socket, locks the filter on it and puts it into the app's table of descriptors; from then on
the two have nothing more to do with each other: a connection costs the app nothing. It works for any user, in any
container, and on each rung of the sandbox alike, and depends on nothing that the app could change under way: the
arguments of `socket()` are numbers in registers.

`connect()` is stopped as well, and goes on unless its address is near: that spares programs a wait of minutes for an
answer that the filter throws away. Its address lies in the app's memory, which the app could change behind our back:
hence it decides nothing.

Imported by the shim: small C modules only.
Source: seccomp_unotify(2); the kernel's `samples/seccomp/user-trap.c`.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
from array import array

from scheduler.runtimes.shim_log import Flow
from scheduler.runtimes.socket_rules import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    SOCK_CLOEXEC,
    SOCK_KIND,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    is_near,
    may_exist,
    packet_filter,
    port_of,
)

TYPE_CHECKING = False  # what `typing` calls it, without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.runtimes.shim_connects import Connects

RECEIVE, SEND, ADD_FD = 0xC0502100, 0xC0182101, 0x40182103
GO_ON, AND_ANSWER = 1, 2
NOTICE_BYTES, ADDRESS_BYTES_MAX = 80, 28
SO_ATTACH_FILTER, SO_LOCK_FILTER = 26, 44

EINVAL, EPROTONOSUPPORT, ECONNREFUSED = 22, 93, 111

REQUESTS_PER_S, REQUESTS_BURST = 2000, 2000
"""Beyond, the app waits: a loop over `socket()` would have the shim, which is in none of the app's control groups, use
a processor on its behalf."""


class SocketBroker:
    """Answers the requests of one app.

    Args:
        channel: A unix socket by which the app's first stage sends the listening descriptor.
        owner: The uid that the app has, if it is not ours.
        port: The app's.
        supervised: Where TCP sockets can have no filter: connections are made here as well (`shim_connects.py`).
        connect_number: Of the `connect` system call on this machine.
        watch, unwatch: Add a descriptor to the loop, and take it out.
    """

    def __init__(
        self,
        channel: _socket.socket,
        *,
        owner: int | None,
        port: int,
        supervised: bool,
        connect_number: int,
        watch: Callable[..., None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._channel = channel
        self._owner = owner
        self._port = port
        self._connect_number = connect_number
        self._watch = watch
        self._unwatch = unwatch
        self._listener = -1
        self._paused = False
        self._flow = Flow(REQUESTS_PER_S, REQUESTS_BURST, refill_bytes=REQUESTS_PER_S // 20)
        self._answers_at_once = True  # whether ADD_FD can answer in the same step: Linux 5.14
        # Kept for ever: a socket option names them by their place in memory.
        self._filters = {kind: array("B", packet_filter(kind, port)) for kind in (1, 2)}
        self._connects: Connects | None = None
        if supervised:
            from scheduler.runtimes.shim_connects import Connects  # `ctypes` weighs a megabyte

            self._connects = Connects(port, answer=self._answer_connect, watch=watch, unwatch=unwatch)
        watch(channel.fileno(), self._take_listener)

    def wait_s(self) -> float | None:
        """Seconds until requests may be answered again; None when they are."""
        return self._flow.wait_s() if self._paused else None

    def check_time(self) -> None:
        """Go on answering if the pause is over."""
        if self._paused and not self._flow.wait_s():
            self._paused = False
            self._watch(self._listener, self._serve)

    def close(self) -> None:
        """No more sockets."""
        self._close_channel()
        if self._connects:
            self._connects.close()
        if self._listener >= 0:
            if not self._paused:
                self._unwatch(self._listener)
            os.close(self._listener)
            self._listener = -1

    def _take_listener(self) -> None:
        """One message, one descriptor; whatever else comes by this channel is not read."""
        descriptors = array("i")
        try:
            room = _socket.CMSG_LEN(descriptors.itemsize)
            _, ancillary, _, _ = self._channel.recvmsg(1, room, _socket.MSG_CMSG_CLOEXEC)
        except OSError:
            ancillary = []
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                descriptors.frombytes(content[: descriptors.itemsize])
        self._close_channel()
        if descriptors:
            self._listener = descriptors[0]
            self._watch(self._listener, self._serve)

    def _close_channel(self) -> None:
        fd = self._channel.fileno()
        if fd >= 0:
            self._unwatch(fd)
            self._channel.close()

    def _serve(self) -> None:
        """One request."""
        notice = bytearray(NOTICE_BYTES)
        try:
            fcntl.ioctl(self._listener, RECEIVE, notice)
        except OSError:
            self._close_if_nobody_is_left()  # whoever asked is dead meanwhile
            return
        words = memoryview(notice).cast("Q")
        request, pid = words[0], words[1] & 0xFFFFFFFF
        number = words[2] & 0xFFFFFFFF
        arguments = (words[4], words[5], words[6])
        try:
            if number == self._connect_number and self._connects:
                fd, place, length = arguments
                self._connects.connect(
                    self._listener, request, pid, fd & 0xFFFFFFFF, place, length & 0xFFFFFFFF
                )
            elif number == self._connect_number:
                self._answer(request, error=ECONNREFUSED if self._is_refused(pid, *arguments) else 0)
            else:
                self._make(request, *(argument & 0xFFFFFFFF for argument in arguments))
        except (OSError, ValueError):
            self._answer_connect(request, EINVAL)
            self._close_if_nobody_is_left()
        self._flow.take(1)
        if self._flow.wait_s() and self._listener >= 0:
            self._paused = True
            self._unwatch(self._listener)

    def _close_if_nobody_is_left(self) -> None:
        poll = select.poll()
        poll.register(self._listener, 0)
        if poll.poll(0):
            self.close()

    def _make(self, request: int, family: int, kind: int, protocol: int) -> None:
        if not may_exist(family, kind, protocol):
            self._answer(request, error=EPROTONOSUPPORT)
            return
        try:
            made = _socket.socket(family, kind & SOCK_KIND | SOCK_CLOEXEC | kind & SOCK_NONBLOCK, protocol)
        except OSError as error:
            self._answer(request, error=error.errno or EINVAL)
            return
        try:
            if family != AF_NETLINK and not (self._connects and kind & SOCK_KIND == SOCK_STREAM):
                self._lock(made, kind & SOCK_KIND)
            if self._owner is not None:
                os.fchown(made.fileno(), self._owner, self._owner)  # as whose socket the kernel counts it
            self._hand_over(request, made.fileno(), os.O_CLOEXEC if kind & SOCK_CLOEXEC else 0)
        except OSError as error:  # the app has no room for it, or is dead: then this answer finds nobody, either
            self._answer(request, error=error.errno or EINVAL)
        finally:
            made.close()

    def _lock(self, made: _socket.socket, kind: int) -> None:
        place, length = self._filters[kind].buffer_info()
        program = (length // 8).to_bytes(8, "little") + place.to_bytes(8, "little")
        made.setsockopt(_socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        made.setsockopt(_socket.SOL_SOCKET, SO_LOCK_FILTER, 1)

    def _hand_over(self, request: int, fd: int, flags: int) -> None:
        if self._answers_at_once:
            try:
                self._add(request, AND_ANSWER, fd, flags)
            except OSError as error:
                if error.errno != EINVAL:
                    raise
                self._answers_at_once = False
            else:
                return
        self._answer(request, value=self._add(request, 0, fd, flags))

    def _add(self, request: int, how: int, fd: int, flags: int) -> int:
        """The number of the descriptor in the app."""
        return int(fcntl.ioctl(self._listener, ADD_FD, bytearray(_words64(request) + _words32(how, fd, 0, flags))))

    def _answer(self, request: int, *, value: int | None = None, error: int = 0) -> None:
        """An error, a value, or else: go on as if nobody had asked."""
        go_on = GO_ON if value is None and not error else 0
        answer = _words64(request, value or 0) + (-error & 0xFFFFFFFF).to_bytes(4, "little") + _words32(go_on)
        fcntl.ioctl(self._listener, SEND, answer)

    def _answer_connect(self, request: int, error: int) -> None:
        try:
            self._answer(request, value=0, error=error)
        except OSError:
            return  # who asked is dead, or was interrupted

    def _is_refused(self, pid: int, _fd: int, place: int, length: int) -> bool:
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(place)
                address = memory.read(min(length & 0xFFFFFFFF, ADDRESS_BYTES_MAX))
        except (OSError, ValueError, OverflowError):
            return False
        if int.from_bytes(address[:2], "little") not in (AF_INET, AF_INET6):
            return False
        return is_near(address) and port_of(address) != self._port


def _words64(*words: int) -> bytes:
    return b"".join(word.to_bytes(8, "little") for word in words)


def _words32(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)
