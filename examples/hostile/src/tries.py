# ruff: noqa: PTH100, PTH108, PTH111, PTH116, PTH123, PTH208
# Plain system calls on purpose: that is what an intruder makes.
"""Twenty-nine things that an app must not be able to do to the machine that runs it, each as a function.

A try returns something true when it got what it wanted, and raises or returns something false when it did not. What
it aims at comes in by the environment, so that a test can put a target there and see each try succeed without a
sandbox; without it, sensible guesses are made:

    HOSTILE_HOME        a node's state folder                     HOSTILE_DAEMON     a process of the node
    HOSTILE_NEIGHBOUR   another replica's folder                  HOSTILE_OTHER      a process of another replica
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

HOME = os.environ.get("HOSTILE_HOME", os.path.expanduser("~root/.local/share/freecloud"))
NEIGHBOUR = os.environ.get("HOSTILE_NEIGHBOUR", f"{HOME}/apps/whereami-1")
NEIGHBOUR_FILE = "/".join((NEIGHBOUR, "work", "data"))
DAEMON = int(os.environ.get("HOSTILE_DAEMON", "1"))
OTHER = int(os.environ.get("HOSTILE_OTHER", "1"))

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
    with open(f"{HOME}/identity/key.pem") as file:
        return file.read()


def list_the_home() -> bool:
    return "identity" in os.listdir(HOME)


def write_into_the_home() -> bool:
    with open(f"{HOME}/planted", "w") as file:
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
    hold_a_capability,
    become_another_user,
    raise_a_limit,
    dump_core,
    type_into_a_terminal,
    map_physical_memory,
)


def attempt_all() -> dict[str, str]:
    """Each try by name, and "got it" or why not."""
    results = {}
    for each in TRIES:
        try:
            got = each()
        except Exception as error:  # any failure is what we hope for
            results[each.__name__] = f"{type(error).__name__}: {error}"
        else:
            results[each.__name__] = "got it" if got else "nothing there"
    return results
