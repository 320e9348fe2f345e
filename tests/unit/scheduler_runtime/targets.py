"""What a hostile app aims at on the network: real listeners, each of which answers whoever is let through.

Where this user may, the cloud's metadata address is real as well: on the far side of a cable (a pair of virtual
devices), so that it is reached over a device that is not loopback, by its link-local address alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import selectors
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TURN_S_MAX = 45.0

METADATA = "169.254.169.254"
FAR = "198.51.100.7"
SERVER = """
import socket
with socket.create_server(("", 80)) as listener:
    print("ready", flush=True)
    while True:
        visitor, _ = listener.accept()
        with visitor:
            visitor.recv(100)
            visitor.sendall(b"secrets")
"""


@contextmanager
def targets() -> Iterator[dict[str, str]]:
    """Listeners on this machine, and what a hostile app has to be told of them."""
    abstract = f"freecloud-test-{secrets.token_hex(4)}"
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in ("neighbour", "api", "ingress", "mesh")}
    outside = socket.create_server((outside_address(), 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("\0" + abstract)
    unix.listen()
    with contextlib.ExitStack() as stack:
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.bind(("127.0.0.1", 0))
        with socket.create_server(("127.0.0.1", 0)) as freed:
            freed_port = freed.getsockname()[1]
        for listener in (*listeners.values(), outside, unix):
            stack.enter_context(listener)
        stack.enter_context(_answering([*listeners.values(), outside, unix], datagrams, freed_port))
        metadata = stack.enter_context(metadata_address())
        ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
        ports |= {"datagrams": datagrams.getsockname()[1], "freed": freed_port}
        yield {
            "HOSTILE_PORTS": ",".join(f"{name}={port}" for name, port in ports.items()),
            "HOSTILE_ADDRESS": "{}:{}".format(*outside.getsockname()),
            "HOSTILE_METADATA": metadata,
            "HOSTILE_ABSTRACT": abstract,
        }


def outside_address() -> str:
    """This machine's address towards others; loopback's where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


@contextmanager
def metadata_address() -> Iterator[str]:
    """Where the metadata service is, on a machine that also has an ordinary address (FAR).

    A listener on loopback where this user may make no devices.
    """
    if os.getuid() != 0 or subprocess.run(["which", "ip"], capture_output=True, timeout=10).returncode != 0:
        with socket.create_server(("127.0.0.3", 0)) as listener, _answering([listener], None, 0):
            yield "{}:{}".format(*listener.getsockname())
        return
    with _alone_on_this_machine():
        yield from _over_a_cable(f"fcm{secrets.token_hex(3)}")


@contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """A machine has one route to the address: two runs of these tests take turns."""
    with Path(tempfile.gettempdir(), "freecloud-test-metadata.lock").open("w") as lock:
        until = time.monotonic() + TURN_S_MAX
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < until, "another run keeps the metadata address to itself"
                time.sleep(0.05)
        yield


def _over_a_cable(name: str) -> Iterator[str]:
    _ip("netns", "add", name)
    server = None
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "cloud", "netns", name)
        _ip("addr", "add", "169.254.169.1/32", "dev", name)
        _ip("link", "set", name, "up")
        for address in (METADATA, FAR):
            _ip("route", "add", address, "dev", name)
            _ip("-n", name, "addr", "add", f"{address}/32", "dev", "cloud")
        _ip("-n", name, "link", "set", "cloud", "up")
        _ip("-n", name, "route", "add", "169.254.169.1", "dev", "cloud")
        command = ["ip", "netns", "exec", name, "python3", "-c", SERVER]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield f"{METADATA}:80"
    finally:
        if server is not None:
            server.kill()
            server.communicate(timeout=10)
        subprocess.run(["ip", "link", "del", name], capture_output=True, timeout=10)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@contextmanager
def _answering(listeners: list[socket.socket], datagrams: socket.socket | None, freed_port: int) -> Iterator[None]:
    """Answer all that come, and visit the freed port again and again, as its old visitors do."""
    over = threading.Event()

    def answer() -> None:
        with selectors.DefaultSelector() as selector:
            for each in (*listeners, *([datagrams] if datagrams else [])):
                selector.register(each, selectors.EVENT_READ)
            while not over.is_set():
                for key, _ in selector.select(0.05):
                    here = key.fileobj
                    assert isinstance(here, socket.socket)
                    with contextlib.suppress(OSError):
                        if here is datagrams:
                            here.sendto(b"!", here.recvfrom(100)[1])
                            continue
                        visitor, _ = here.accept()
                        with visitor:
                            visitor.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    def visit() -> None:
        while freed_port and not over.wait(0.05):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", freed_port), 0.5) as talk:
                talk.sendall(b"who are you?")

    threads = [threading.Thread(target=answer), threading.Thread(target=visit)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(10)
