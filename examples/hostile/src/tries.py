# ruff: noqa: PTH100, PTH108, PTH111, PTH116, PTH123, PTH208
# Plain system calls on purpose: that is what an intruder makes.
"""Forty-four things that an app must not be able to do to the machine that runs it, each as a function.

A try returns something true when it got what it wanted, and raises or returns something false when it did not. What
it aims at comes in by the environment, so that a test can put a target there and see each try succeed without a
sandbox; without it, sensible guesses are made:

    HOSTILE_HOME        a node's state folder                     HOSTILE_DAEMON     a process of the node
    HOSTILE_NEIGHBOUR   another replica's folder                  HOSTILE_OTHER      a process of another replica
    HOSTILE_PORTS       neighbour=N,datagrams=N,api=N,ingress=N,mesh=N,freed=N: who listens where on this machine;
                        "freed" is a port that the neighbour had a moment ago
    HOSTILE_ADDRESS     HOST:PORT of a listener on this machine's own outside address
    HOSTILE_METADATA    HOST:PORT where the cloud tells its machines their secrets
    HOSTILE_ABSTRACT    name of an abstract unix socket
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

HOME = os.environ.get("HOSTILE_HOME", os.path.expanduser("~root/.local/share/freecloud"))
NEIGHBOUR = os.environ.get("HOSTILE_NEIGHBOUR", f"{HOME}/apps/whereami-1")
NEIGHBOUR_FILE = "/".join((NEIGHBOUR, "work", "data"))
DAEMON = int(os.environ.get("HOSTILE_DAEMON", "1"))
OTHER = int(os.environ.get("HOSTILE_OTHER", "1"))
PORTS = {"neighbour": 20000, "datagrams": 20000, "api": 6780, "ingress": 6781, "mesh": 6700, "freed": 20001}
PORTS |= {
    name: int(port)
    for name, _, port in (pair.partition("=") for pair in os.environ.get("HOSTILE_PORTS", "").split(",") if pair)
}
ADDRESS = os.environ.get("HOSTILE_ADDRESS", "0.0.0.0:6781")
METADATA = os.environ.get("HOSTILE_METADATA", "169.254.169.254:80")
ABSTRACT = os.environ.get("HOSTILE_ABSTRACT", "/tmp/.X11-unix/X0")  # noqa: S108 - a name

PATIENCE_S = 1.5

PTRACE_SEIZE = 0x4206
TIOCSTI = 0x5412
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
IO_URING_SETUP = 425

_libc = ctypes.CDLL(None, use_errno=True)


def in_child(action: Callable[[], Any]) -> bool:
    """Whether the action works, tried in a process of its own, because it would change this one."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if action() else 1)
        except BaseException:  # whatever it was: it did not work
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- the node's files ---------------------------------------------------------------------------------------------


def read_the_nodes_key() -> Any:
    with open(f"{HOME}/identity/node.pem") as file:
        return file.read()


def list_the_home() -> bool:
    return "identity" in os.listdir(HOME)


def write_into_the_home() -> bool:
    with open(f"{HOME}/identity/planted", "w") as file:
        return file.write("x") == 1


def connect_to_the_daemon() -> bool:
    def connect() -> bool:
        os.chdir(f"{HOME}/run")
        socket.socket(socket.AF_UNIX).connect("daemon.sock")
        return True

    return in_child(connect)


# --- the neighbours -----------------------------------------------------------------------------------------------


def read_a_neighbours_file() -> Any:
    with open(NEIGHBOUR_FILE) as file:
        return file.read()


def write_a_neighbours_file() -> bool:
    with open(NEIGHBOUR_FILE, "r+") as file:
        return file.write("mine") == 4


def read_a_neighbours_record() -> Any:
    with open(f"{NEIGHBOUR}/record.bin", "rb") as file:
        return file.read()


def signal_a_neighbour() -> bool:
    os.kill(OTHER, 0)
    return True


def read_a_neighbours_environment() -> Any:
    with open(f"/proc/{OTHER}/environ", "rb") as file:
        return file.read()


# --- the daemon's process -----------------------------------------------------------------------------------------


def signal_the_daemon() -> bool:
    os.kill(DAEMON, 0)
    return True


def trace_the_daemon() -> bool:
    return bool(_libc.ptrace(PTRACE_SEIZE, DAEMON, 0, 0) == 0)


def read_the_daemons_environment() -> Any:
    with open(f"/proc/{DAEMON}/environ", "rb") as file:
        return file.read()


def open_the_daemons_memory() -> bool:
    with open(f"/proc/{DAEMON}/mem", "rb"):
        return True


def enter_the_daemons_root() -> Any:
    return os.listdir(f"/proc/{DAEMON}/root/etc") and os.stat(f"/proc/{DAEMON}/root/etc/shadow")


def borrow_the_daemons_descriptors() -> Any:
    """Their numbers are no secret between processes of one user; what they lead to is."""
    return [os.stat(f"/proc/{DAEMON}/fd/{number}") for number in os.listdir(f"/proc/{DAEMON}/fd")]


# --- the machine --------------------------------------------------------------------------------------------------


def read_the_machines_passwords() -> Any:
    with open("/etc/shadow") as file:
        return file.read()


def write_to_the_system() -> bool:
    path = f"/usr/lib/planted-{os.getpid()}"
    with open(path, "w"):
        os.unlink(path)
        return True


def set_a_kernel_parameter() -> bool:
    """Writes what is there already: a success changes nothing."""
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read()
    with open("/proc/sys/kernel/core_pattern", "w") as file:
        return file.write(pattern) > 0


def make_a_device() -> bool:
    path = os.path.abspath("device")
    os.mknod(path, 0o20666, os.makedev(1, 1))
    os.unlink(path)
    return True


def rename_the_machine() -> bool:
    socket.sethostname(socket.gethostname())
    return True


def mount_something() -> bool:
    return in_child(lambda: _libc.unshare(CLONE_NEWNS) == 0)


def make_a_user_namespace() -> bool:
    return in_child(lambda: _libc.unshare(CLONE_NEWUSER) == 0)


def use_io_uring() -> bool:
    fd = _libc.syscall(IO_URING_SETUP, 8, ctypes.create_string_buffer(512))
    return fd >= 0 and os.close(fd) is None


# --- the network --------------------------------------------------------------------------------------------------


def said_by(address: str, port: int) -> bool:
    """Whether whoever listens there says anything. TLS and HTTP both answer to this line."""
    with socket.create_connection((address, port), PATIENCE_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection.recv(1) != b""


def connected(address: str, port: int) -> bool:
    with socket.create_connection((address, port), PATIENCE_S):
        return True


def said_without_connecting(address: str, port: int, talk: socket.socket | None = None) -> bool:
    """The connection is begun by the first bytes sent: no system call is told an address but `sendto`."""
    request = b"GET / HTTP/1.0\r\n\r\n"
    with talk or socket.socket() as talk:
        talk.setblocking(False)
        try:
            talk.sendto(request, socket.MSG_FASTOPEN, (address, port))
        except BlockingIOError:  # it is on its way, without the bytes
            select.select([], [talk], [], PATIENCE_S)
            talk.sendall(request)
        talk.settimeout(PATIENCE_S)
        return talk.recv(1) != b""


def talk_to_a_neighbours_port() -> bool:
    return said_by("127.0.0.1", PORTS["neighbour"])


def talk_to_a_neighbours_port_by_ipv6() -> bool:
    return said_by("::ffff:127.0.0.1", PORTS["neighbour"])


def talk_to_a_neighbour_by_no_address() -> bool:
    """0.0.0.0 is this machine, too."""
    return said_by("0.0.0.0", PORTS["neighbour"])


def talk_to_a_neighbour_without_connecting() -> bool:
    return said_without_connecting("127.0.0.1", PORTS["neighbour"])


def talk_to_a_neighbour_with_the_filter_off() -> bool:
    """Off, or replaced by one that lets everything pass, or by the kernel's newer kind."""
    everything = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF))
    program = struct.pack("@HP", 1, ctypes.addressof(everything))
    with socket.socket() as talk:
        for option, value in ((44, 0), (27, 0), (26, program), (27, 0), (44, 0)):
            with contextlib.suppress(OSError):
                talk.setsockopt(socket.SOL_SOCKET, option, value)
        return said_without_connecting("127.0.0.1", PORTS["neighbour"], talk)


def ask_a_neighbour_by_datagram() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        ask.settimeout(PATIENCE_S)
        ask.sendto(b"?", ("127.0.0.1", PORTS["datagrams"]))
        return ask.recv(1) != b""


def take_over_a_neighbours_port() -> bool:
    """Where the neighbour listened until just now, its visitors still come."""
    with socket.create_server(("127.0.0.1", PORTS["freed"])) as listener:
        listener.settimeout(PATIENCE_S)
        visitor, _ = listener.accept()
        return visitor.recv(1) != b""


def talk_to_the_api() -> bool:
    return connected("127.0.0.1", PORTS["api"])


def talk_to_the_ingress() -> bool:
    return said_by("127.0.0.1", PORTS["ingress"])


def talk_to_the_mesh_port() -> bool:
    return connected("127.0.0.1", PORTS["mesh"])


def talk_to_the_machine_by_its_outside_address() -> bool:
    host, _, port = ADDRESS.rpartition(":")
    return said_by(host, int(port))


def ask_the_cloud_for_the_machines_secrets() -> bool:
    host, _, port = METADATA.rpartition(":")
    return said_by(host, int(port))


def ask_the_cloud_without_connecting() -> bool:
    host, _, port = METADATA.rpartition(":")
    return said_without_connecting(host, int(port))


def connect_to_an_abstract_socket() -> bool:
    with socket.socket(socket.AF_UNIX) as talk:
        talk.connect("\0" + ABSTRACT)
        return True


def listen_to_all_packets() -> bool:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0):
        return True


# --- privileges and leftovers -------------------------------------------------------------------------------------


def hold_a_capability() -> int:
    with open("/proc/self/status") as file:
        return int(file.read().split("CapEff:")[1].split()[0], 16)


def become_another_user() -> bool:
    return in_child(lambda: os.setuid(os.getuid() + 1) is None)


def raise_a_limit() -> bool:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return True


def dump_core() -> bool:
    return resource.getrlimit(resource.RLIMIT_CORE)[1] != 0


def type_into_a_terminal() -> bool:
    """TIOCSTI: on a terminal shared with whoever started it, an app could type commands (CVE-2017-5226)."""

    def type_it() -> bool:
        leader, follower = os.openpty()
        os.setsid()
        fcntl.ioctl(follower, 0x540E, 0)  # TIOCSCTTY
        fcntl.ioctl(follower, TIOCSTI, b"x")
        return bool(leader)

    return in_child(type_it)


def map_physical_memory() -> bool:
    with open("/dev/mem", "rb") as file:
        return bool(mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ))


NETWORK: tuple[Callable[[], Any], ...] = (
    talk_to_a_neighbours_port,
    talk_to_a_neighbours_port_by_ipv6,
    talk_to_a_neighbour_by_no_address,
    talk_to_a_neighbour_without_connecting,
    talk_to_a_neighbour_with_the_filter_off,
    ask_a_neighbour_by_datagram,
    take_over_a_neighbours_port,
    talk_to_the_api,
    talk_to_the_ingress,
    talk_to_the_mesh_port,
    talk_to_the_machine_by_its_outside_address,
    ask_the_cloud_for_the_machines_secrets,
    ask_the_cloud_without_connecting,
    connect_to_an_abstract_socket,
    listen_to_all_packets,
)

TRIES: tuple[Callable[[], Any], ...] = (
    read_the_nodes_key,
    list_the_home,
    write_into_the_home,
    connect_to_the_daemon,
    read_a_neighbours_file,
    write_a_neighbours_file,
    read_a_neighbours_record,
    signal_a_neighbour,
    read_a_neighbours_environment,
    signal_the_daemon,
    trace_the_daemon,
    read_the_daemons_environment,
    open_the_daemons_memory,
    enter_the_daemons_root,
    borrow_the_daemons_descriptors,
    read_the_machines_passwords,
    write_to_the_system,
    set_a_kernel_parameter,
    make_a_device,
    rename_the_machine,
    mount_something,
    make_a_user_namespace,
    use_io_uring,
    *NETWORK,
    hold_a_capability,
    become_another_user,
    raise_a_limit,
    dump_core,
    type_into_a_terminal,
    map_physical_memory,
)


def attempt(each: Callable[[], Any], results: dict[str, str]) -> None:
    try:
        got = each()
    except Exception as error:  # any failure is what we hope for
        results[each.__name__] = f"{type(error).__name__}: {error}"
    else:
        results[each.__name__] = "got it" if got else "nothing there"


def attempt_all() -> dict[str, str]:
    """Each try by name, and "got it" or why not. Those that wait for an answer wait together."""
    results: dict[str, str] = {}
    waiting = [threading.Thread(target=attempt, args=(each, results)) for each in TRIES if each in NETWORK]
    for each in TRIES:
        if each not in NETWORK:
            attempt(each, results)
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    return results
