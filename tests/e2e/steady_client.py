"""A client that retries nothing, at a steady rate: each request has its moment, whatever became of those before it.

It runs in a thread of its own with a loop of its own, so that the test can do things to the cluster meanwhile. Half
of the requests open a connection, the other half use one that rested, as browsers do.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httptools
import trio

from tests.e2e.cluster import Daemon, wait_until

GIVE_UP_S = 30.0
"""More than an ingress may take for anything but the app's own slowness: whoever waits longer was forgotten."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One kind of request."""

    method: str = "GET"
    path: str = "/fast"
    body: bytes = b""


@dataclass(slots=True)
class Shot:
    """One request and what came of it, as its client saw it."""

    request_id: str
    node: str
    wish: Wish
    kept: bool  # over a connection that had been used before
    began_s: float
    took_s: float = 0.0
    status: int = 0  # 0: not even the head of a response came
    complete: bool = False
    replica: str = ""
    why: str = ""

    @property
    def served(self) -> bool:
        return self.complete and self.status < 400

    @property
    def torn(self) -> bool:
        """The app's response had begun, and did not end."""
        return 200 <= self.status < 400 and not self.complete

    def __str__(self) -> str:
        seen = f"status {self.status}" if self.status else "no status"
        return (
            f"{self.wish.method} {self.wish.path} {self.request_id} by {self.node} at {self.began_s:.2f} s "
            f"{'on a kept connection ' if self.kept else ''}took {self.took_s:.2f} s: {seen}, {self.why}"
        )


class SteadyClient:
    """Sends from entering to `stop`.

    Args:
        nodes: Whose ingresses are asked, in turn; `avoid` takes one out.
        rate: Requests a second.
        wishes: What is asked for, in turn.
    """

    def __init__(self, app: str, nodes: Sequence[Daemon], rate: float, wishes: Sequence[Wish] = (Wish(),)) -> None:
        self._app = app
        self._nodes = list(nodes)
        self._rate = rate
        self._wishes = wishes
        self._ended = threading.Event()
        self._resting: dict[str, list[socket.socket]] = {node.name: [] for node in nodes}
        self._flying: Counter[str] = Counter()
        self._thread = threading.Thread(target=lambda: trio.run(self._run), name="steady client")
        self._run_id = uuid.uuid4().hex[:8]
        self.shots: list[Shot] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> list[Shot]:
        """Send no more, wait for what was sent; all that was shot."""
        self._ended.set()
        self._thread.join(GIVE_UP_S * 2)
        assert not self._thread.is_alive(), "a request was neither answered nor given up"
        return self.shots

    def avoid(self, node: Daemon) -> None:
        """Send nothing more by this node, and return when nothing is under way there."""
        self._nodes = [each for each in self._nodes if each is not node]
        wait_until(f"nothing is under way by {node.name}", lambda: not self._flying[node.name])

    def reach(self, count: int) -> None:
        """Return when this many requests have come to an end since the start."""
        limit_s = 60 + 10 * count / self._rate
        wait_until(f"{count} requests", lambda: len(self.shots) >= count or not self._thread.is_alive(), limit_s)
        assert self._thread.is_alive(), "the client itself failed"

    def go_on(self, count: int) -> None:
        """Return when this many more have come to an end."""
        self.reach(len(self.shots) + count)

    async def _run(self) -> None:
        start = trio.current_time()
        number = 0
        async with trio.open_nursery() as nursery:
            while not self._ended.is_set():
                await trio.sleep_until(start + number / self._rate)
                node = self._nodes[number % len(self._nodes)]
                wish = self._wishes[number // 2 % len(self._wishes)]
                kept = bool(number.bit_count() % 2)  # not by turns: that would go with the node's
                shot = Shot(f"{self._run_id}-{number}", node.name, wish, kept, trio.current_time() - start)
                self._flying[node.name] += 1
                nursery.start_soon(self._shoot, shot, node.addresses["ingress"])
                number += 1
        for resting in self._resting.values():
            for sock in resting:
                sock.close()

    async def _shoot(self, shot: Shot, address: str) -> None:
        began = trio.current_time()
        sock = self._rested(shot.node) if shot.kept else None
        shot.kept = sock is not None
        again = False
        try:
            with trio.move_on_after(GIVE_UP_S) as scope:
                if sock is None:
                    sock = await _connect(address)
                again = await self._exchange(shot, sock, address)
            if scope.cancelled_caught:
                shot.why = f"nothing for {GIVE_UP_S:.0f} s"
        except (OSError, httptools.HttpParserError) as error:
            shot.why = str(error) or type(error).__name__
        finally:
            shot.took_s = trio.current_time() - began
            if again and sock is not None:
                self._resting[shot.node].append(sock)
            elif sock is not None:
                sock.close()
            self.shots.append(shot)
            self._flying[shot.node] -= 1

    def _rested(self, node: str) -> socket.socket | None:
        """A connection on which nothing was said meanwhile: an end told before we send fails nobody's request."""
        while self._resting[node]:
            sock = self._resting[node].pop()
            try:
                sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return sock
            except OSError:
                sock.close()  # reset while it rested
            else:
                sock.close()
        return None

    async def _exchange(self, shot: Shot, sock: socket.socket, address: str) -> bool:
        """One request and its response; True if the connection may be used again."""
        answer = _Answer(shot)
        parser = httptools.HttpResponseParser(answer)
        answer.parser = parser
        await _send(sock, _request(shot, f"{self._app}.localhost:{address.rpartition(':')[2]}"))
        while not shot.complete:
            await trio.lowlevel.wait_readable(sock)
            piece = sock.recv(65536)
            if not piece:
                shot.why = "the connection ended"
                return False
            parser.feed_data(piece)
        if not shot.served:
            shot.why = answer.body.decode(errors="replace")
        return bool(parser.should_keep_alive())


class _Answer:
    """What httptools tells of a response, written into its shot."""

    def __init__(self, shot: Shot) -> None:
        self._shot = shot
        self.parser: Any = None
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-replica":
            self._shot.replica = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._shot.status = self.parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        self.body = (self.body + piece)[:500]

    def on_message_complete(self) -> None:
        self._shot.complete = True


async def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock


async def _send(sock: socket.socket, block: bytes) -> None:
    while block:
        try:
            block = block[sock.send(block) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


def _request(shot: Shot, host: str) -> bytes:
    wish = shot.wish
    head = f"{wish.method} {wish.path} HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {shot.request_id}\r\n"
    length = f"Content-Length: {len(wish.body)}\r\n" if wish.body else ""
    return f"{head}{length}\r\n".encode() + wish.body
