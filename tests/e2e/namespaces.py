"""A network of a test's own: every daemon in a network namespace with one cable, all cables in one bridge.

The namespaces have no names: each is held by a shell that waits for the end of a pipe from this process, and then ends
whatever still runs in there. However this process ends, the pipe closes and the network is gone; two runs at once
cannot meet. To look inside by hand: `nsenter --net=/proc/PID/ns/net`, where PID is that shell's.

What a node does not hear is dropped where it would arrive, by nftables: nobody is told, as with a cut cable.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.e2e.cluster import Cluster, Daemon

T = TypeVar("T")

SUBNET = "10.77.0."
MESH_PORT = 6700
COMMAND_S = 30.0
CLONE_NEWNET = 0x40000000
FAKETIME = "*/faketime/libfaketimeMT.so.1"
"""Debian's, in the build whose locks fit programs with threads."""

HOLD = """
echo
cat > /dev/null
here=$(readlink /proc/$$/ns/net)
for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    if [ "$pid" != $$ ] && [ "$(readlink "$process/ns/net" 2> /dev/null)" = "$here" ]; then
        kill -9 "$pid" 2> /dev/null
    fi
done
exit 0
"""
"""What holds a namespace; `unshare` begins it only in one of its own."""

RULES = """
table inet cut {
  set unheard { type ipv4_addr; }
  chain arriving {
    type filter hook input priority 0;
    ip saddr @unheard drop
  }
}
"""


def missing() -> str:
    """What this machine lacks to make such a network, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "nft", "nsenter", "unshare") if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (tests/system-packages.sh)"
    try:
        with network() as probe:
            probe.add()
    except subprocess.CalledProcessError as error:
        return f"this kernel makes no such network: {error.stderr.strip()}"
    return ""


def faketime() -> Path | None:
    """The library that moves one process' wall clock and leaves its monotonic clock alone, if it is installed."""
    return next(Path("/usr/lib").glob(FAKETIME), None)


class Namespace:
    """One network namespace, held by a process that ends with this one."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()  # it is in its namespace now
        self._inside = ThreadPoolExecutor(1, initializer=self._enter)

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def path(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a tool in there."""
        command = ["nsenter", f"--net={self.path}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=COMMAND_S)
        return done.stdout

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in there, in a thread that has moved in: what it opens stays of that network."""
        return self._inside.submit(function).result(COMMAND_S)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {self.path}")
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._inside.shutdown()
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait(COMMAND_S)


class Host:
    """One machine of the network: a namespace, an address, and what it does not hear."""

    def __init__(self, hub: Namespace, number: int) -> None:
        self.address = f"{SUBNET}{number}"
        self.namespace = Namespace()
        cable = f"cable{number}"
        hub.run(
            "ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(self.namespace.pid)
        )
        hub.run("ip", "link", "set", cable, "master", "bridge", "up")
        self.namespace.run("ip", "link", "set", "lo", "up")
        self.namespace.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        # One packet is one packet, as on a wire; else the kernel hands over up to 64 KiB at once.
        self.namespace.run("ip", "link", "set", "eth0", "gso_max_segs", "1", "up")
        self._nft(RULES)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command, makes it a command on this machine."""
        return ("nsenter", f"--net={self.namespace.path}")

    def unhear(self, others: Iterable[Host]) -> None:
        """Nothing that these send arrives here any more; what this one sends is not touched."""
        if addresses := ", ".join(other.address for other in others):
            self._nft(f"add element inet cut unheard {{ {addresses} }}")

    def unhear_larger(self, others: Iterable[Host], size: int) -> None:
        """Packets of these beyond this size are swallowed on the way here, and nobody is told."""
        addresses = ", ".join(other.address for other in others)
        self._nft(f"add rule inet cut arriving ip saddr {{ {addresses} }} meta length > {size} drop")

    def hear_all(self) -> None:
        """Heal: everything arrives again."""
        self._nft(f"delete table inet cut\n{RULES}")

    def connect(self, port: int, timeout: float) -> socket.socket:
        """A connection made on this machine, to its loopback."""
        return self.namespace.call(lambda: socket.create_connection(("127.0.0.1", port), timeout=timeout))

    def _nft(self, script: str) -> None:
        self.namespace.run("nft", "-f", "-", stdin=script)


class Network:
    """A bridge in a namespace of its own, and the machines whose cables end there."""

    def __init__(self) -> None:
        self._hub = Namespace()
        self.hosts: list[Host] = []
        self._hub.run("ip", "link", "add", "bridge", "type", "bridge")
        self._hub.run("ip", "link", "set", "bridge", "up")

    def add(self) -> Host:
        host = Host(self._hub, len(self.hosts) + 1)
        self.hosts.append(host)
        return host

    def close(self) -> None:
        for host in self.hosts:
            host.namespace.close()
        self._hub.close()


@contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()


@dataclass(slots=True)
class Resident(Daemon):
    """A daemon on a machine of its own."""

    host: Host = field(kw_only=True)
    clock: Path | None = None
    """The file that moves its wall clock, where it was started so that it can be moved."""

    def get(self, app: str, path: str = "/", *, timeout: float = 10.0) -> tuple[int, dict[str, str], bytes]:
        """One request on this machine, through its own ingress, retrying nothing."""
        port = int(self.addresses["ingress"].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        connection.sock = self.host.connect(port, timeout)
        try:
            connection.request("GET", path, headers={"Host": f"{app}.localhost:{port}"})
            response = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def step_clock(self, seconds: int) -> None:
        """Move its wall clock against the machine's; its monotonic clock runs on."""
        assert self.clock is not None, f"{self.name} was not started with a clock that can be moved"
        self.clock.write_text(f"{seconds:+d}")


class NetworkCluster(Cluster):
    """One mesh, each daemon on a machine of its own."""

    def __init__(self, folder: Path, wires: Network) -> None:
        super().__init__(folder)
        self._folder = folder
        self._wires = wires
        self.nodes: list[Resident] = []  # type: ignore[assignment]

    def add(self, *flags: str, movable_clock: bool = False) -> Resident:
        node = self._resident(len(self.nodes) + 1, movable_clock)
        self._begin(node, self.token() if self.nodes else "", *flags)
        self.nodes.append(node)
        return node

    def join_all(self, count: int) -> None:
        """So many more at once, with one token."""
        token = self.token(uses=count)
        fresh = [self._resident(len(self.nodes) + 1 + number, movable=number == 0) for number in range(count)]
        self.nodes += fresh
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda node: self._begin(node, token), fresh))

    def _resident(self, number: int, movable: bool) -> Resident:
        host = self._wires.add()
        node = Resident(f"n{number}", self._folder / f"n{number}", host=host)
        node.prefix = host.prefix
        if movable and faketime() is not None:
            self._give_clock(node)
        return node

    def _begin(self, node: Resident, token: str, *flags: str) -> None:
        flags = ("--listen", f"{node.host.address}:{MESH_PORT}", *flags)
        done = node.join(token, *flags) if token else node.up(*flags)
        assert done.status == 0, done.err + self._log(node)

    def _give_clock(self, node: Resident) -> None:
        library = faketime()
        assert library is not None, "faketime is not installed"
        node.clock = self._folder / f"{node.name}.clock"
        node.clock.write_text("+0")
        node.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(node.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # 1, the default, has threads that wait with a limit spin instead
        }

    def cut(self, one: Collection[Resident], other: Collection[Resident]) -> None:
        """Nothing passes between these two sides, either way."""
        for node in one:
            node.host.unhear(far.host for far in other)
        for node in other:
            node.host.unhear(far.host for far in one)

    def deafen(self, listener: Resident, *speakers: Resident) -> None:
        """Nothing that these send reaches the listener; what it sends reaches them."""
        listener.host.unhear(speaker.host for speaker in speakers)

    def black_hole(self, node: Resident, size: int) -> None:
        """The path to and from this node passes no packet beyond this size."""
        others = [other.host for other in self.rest(node)]
        node.host.unhear_larger(others, size)
        for other in others:
            other.unhear_larger([node.host], size)

    def heal(self) -> None:
        for node in self.nodes:
            node.host.hear_all()

    def rest(self, *without: Resident) -> list[Resident]:
        return [node for node in self.nodes if node not in without]


@contextmanager
def network_cluster(folder: Path) -> Iterator[NetworkCluster]:
    """A cluster and its network, both gone afterwards, whatever happened."""
    with network() as wires:
        made = NetworkCluster(folder, wires)
        try:
            yield made
        finally:
            made.stop()
