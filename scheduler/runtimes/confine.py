"""The last steps between a shim and an app: become less and less, then exec (rules A2, A3; attack 34).

Run as `python -I -S confine.py OPTIONS COMMAND…`, with OPTIONS a JSON object; every key is optional. It runs once or
twice on the way to an app: outside the sandbox (control groups, the daemon's own limits), then inside it (the app's
uid, its limits, its environment). One file without neighbours, because it is mounted into sandboxes by itself.

    daemonise     fork, leave the session and the daemon's own scheduling, become the subreaper of orphans, exec; the
                  first process ends at once
    death_signal  die when the shim dies; asked for after the change of user, which would clear it
    cgroups       control groups to enter
    cwd, umask    where to start, what new files are denied
    rlimits       {"nproc": 512, "nofile": 1024, …}
    oom_score     who goes first when memory runs out: never the daemon
    uid, gid      whom to become, without supplementary groups
    drop_capabilities   all of them, also those that root would get back with exec
    landlock      {"read": [paths], "write": [paths]}: nothing else of the file system, no signals to outsiders
    scoped        no abstract unix sockets and no signals of outsiders, by Landlock alone
    seccomp       "base", or "no-unix": also no unix sockets, where the daemon's own could be reached by its path
    listen_at     no TCP port but this one and what the kernel chooses, and no connection without `connect`
    sockets_fd    internet sockets are made by the shim (`shim_sockets.py`), which is told of each by what is sent here
    close_from    the lowest descriptor to close (3): nothing of the daemon's stays open in an app
    env_fd        take the environment from this descriptor (JSON) instead of inheriting one

Source: man pages of prctl(2), landlock(7), seccomp(2), bpf in `linux/filter.h`; constants are the kernel's ABI.
"""

from __future__ import annotations

import _socket
import ctypes
import json
import os
import resource
import struct
import sys
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
PR_CAPBSET_DROP = 24
CAPABILITY_VERSION_3 = 0x20080522
SECCOMP_SET_MODE_FILTER, SECCOMP_NEW_LISTENER, SECCOMP_KILLABLE_WAIT = 1, 1 << 3, 1 << 5
CLOSE_RANGE, LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 436, 444, 445, 446

LANDLOCK_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many file-system rights each ABI knows; from 5 on, 16."""

LANDLOCK_READ = 0b1101  # execute, read file, read folder
LANDLOCK_FILE_BITS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
LANDLOCK_SCOPES = 0b11  # no abstract sockets of outsiders, no signals to them: ABI 6
LANDLOCK_BIND_TCP, LANDLOCK_RULE_PORT = 1, 2
LANDLOCK_ABI_MIN = 6
"""Without the scope for signals an app could end the daemon, whose user it shares on that rung."""

RLIMITS = {
    "nproc": resource.RLIMIT_NPROC,
    "nofile": resource.RLIMIT_NOFILE,
    "core": resource.RLIMIT_CORE,
    "fsize": resource.RLIMIT_FSIZE,
    "data": resource.RLIMIT_DATA,
}

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
CLONE_NEWUSER = 0x10000000
MSG_FASTOPEN = 0x20000000
FLAGS_AT = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument holds the flags."""

MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "seccomp": 317, "connect": 42, "sendto": 44, "sendmsg": 46, "sendmmsg": 307,
            "ioctl": 16, "socket": 41, "clone": 56, "ptrace": 101, "mount": 165, "umount2": 166, "swapon": 167,
            "reboot": 169, "init_module": 175, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
            "kexec_load": 246, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "finit_module": 313, "bpf": 321, "userfaultfd": 323, "open_by_handle_at": 304,
            "acct": 163, "pivot_root": 155, "chroot": 161, "quotactl": 179,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "seccomp": 277, "connect": 203, "sendto": 206, "sendmsg": 211, "sendmmsg": 269,
            "ioctl": 29, "socket": 198, "clone": 220, "ptrace": 117, "mount": 40, "umount2": 39, "swapon": 224,
            "reboot": 142, "init_module": 105, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97,
            "kexec_load": 104, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "finit_module": 273, "bpf": 280, "userfaultfd": 282, "open_by_handle_at": 265,
            "acct": 89, "pivot_root": 41, "chroot": 51, "quotactl": 60,
        },
    ),
}  # fmt: skip
"""Audit architecture and system call numbers; calls of 424 and above have one number everywhere."""

SAME_EVERYWHERE = {
    "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "clone3": 435,
    "mount_setattr": 442, "pidfd_getfd": 438,
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    command = sys.argv[2:]
    if options.get("daemonise"):
        daemonise()
    enter_cgroups(options.get("cgroups", []))
    environment = read_environment(options["env_fd"]) if "env_fd" in options else dict(os.environ)
    limit(options.get("rlimits", {}))
    if "oom_score" in options:
        write_file("/proc/self/oom_score_adj", str(options["oom_score"]))
    if "umask" in options:
        os.umask(options["umask"])
    if "uid" in options:
        become(options["uid"], options["gid"])
    if "cwd" in options:
        go_to(options["cwd"])  # as whom we have become: a folder that the app itself cannot reach is of no use to it
    if options.get("drop_capabilities"):
        drop_capabilities()
    if options.get("death_signal"):
        die_with_parent(options["death_signal"])
    if "landlock" in options or "seccomp" in options or options.get("scoped"):
        check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if "listen_at" in options:
        restrict_listening(options["listen_at"])
    if "landlock" in options:
        restrict_files(options["landlock"]["read"], options["landlock"]["write"])
    if options.get("scoped"):
        restrict_scope()
    if "seccomp" in options:
        restrict_calls(
            no_unix=options["seccomp"] == "no-unix",
            sockets_fd=options.get("sockets_fd"),
            no_fastopen="listen_at" in options,
        )
    close_descriptors(options.get("close_from", 3))
    exec_command(command, environment)


def exec_command(command: list[str], environment: dict[str, str]) -> None:
    """Replace this process by the command, found on the *app's* PATH."""
    try:
        if "/" in command[0]:
            os.execve(command[0], command, environment)
        for folder in environment.get("PATH", os.defpath).split(":"):
            path = f"{folder}/{command[0]}"
            if os.access(path, os.X_OK) and not os.path.isdir(path):  # noqa: PTH112 - as small as can be
                os.execve(path, command, environment)
    except OSError as error:
        fail(f"cannot start {command[0]}: {error.strerror}")
    fail(f"cannot start {command[0]}: there is no such program here")


def daemonise() -> None:
    """Go on in a child that is nobody's: no session, no terminal, no parent that anyone waits for."""
    if os.fork():
        os._exit(0)
    os.setsid()
    be_scheduled_like_others()
    check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")


def be_scheduled_like_others() -> None:
    """A daemon may have real-time priority; an app with it would be the only one to run, and no control group with a
    share of the processor takes it (EINVAL)."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def enter_cgroups(paths: list[str]) -> None:
    for path in paths:
        write_file(f"{path}/cgroup.procs", "0")


def limit(limits: dict[str, int]) -> None:
    """Set soft and hard limits at once; one that is lower already stays."""
    for name, wanted in limits.items():
        which = RLIMITS[name]
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Root without capabilities is still the owner of root's files, but may no longer do what only root may."""
    for capability in range(64):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # needs one itself; without it, no_new_privs has to do
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    check(_libc.capset(header, bytes(24)), "capabilities")
    check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def go_to(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        fail(f"the app's user cannot reach {folder}: {error.strerror}")


def die_with_parent(number: int) -> None:
    parent = int(os.environ.get("SHIM_PID", "0"))
    check(_libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0), "death signal")
    if parent and os.getppid() not in (parent, 0):
        os._exit(137)  # it died before we asked to be told


def close_descriptors(lowest: int) -> None:
    if _libc.syscall(CLOSE_RANGE, lowest, 0xFFFFFFFF, 0) < 0:
        os.closerange(lowest, 65536)  # a kernel before 5.9


def read_environment(fd: int) -> dict[str, str]:
    with os.fdopen(fd, "rb") as file:
        environment: dict[str, str] = json.loads(file.read())
    return environment


def restrict_files(readable: list[str], writable: list[str]) -> None:
    """Landlock: these paths and what is below them, and nothing else."""
    abi = landlock_abi()
    if abi < LANDLOCK_ABI_MIN:
        fail(f"Landlock ABI {abi}: {LANDLOCK_ABI_MIN} is needed")
    everything = (1 << LANDLOCK_FS_BITS.get(abi, 16)) - 1
    attributes = struct.pack("QQQ", everything, 0, LANDLOCK_SCOPES)
    ruleset = check(_libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0), "landlock ruleset")
    for paths, rights in ((readable, LANDLOCK_READ), (writable, everything)):
        for path in paths:
            allow_path(ruleset, path, rights)
    check(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def restrict_listening(port: int) -> None:
    """By Landlock: TCP ports to bind to. 0 stands for any that the kernel chooses: none of them is a neighbour's."""
    attributes = struct.pack("QQ", 0, LANDLOCK_BIND_TCP)
    ruleset = check(_libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0), "landlock ports")
    for allowed in (0, port):
        rule = struct.pack("QQ", LANDLOCK_BIND_TCP, allowed)
        check(_libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PORT, rule, 0), "landlock port")
    check(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def restrict_scope() -> None:
    attributes = struct.pack("QQQ", 0, 0, LANDLOCK_SCOPES)
    ruleset = check(_libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0), "landlock ruleset")
    check(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what is not there cannot be allowed, nor needs to be
    if not os.path.isdir(path):  # noqa: PTH112 - as small as can be
        rights &= LANDLOCK_FILE_BITS
    rule = struct.pack("=Qi", rights, fd)
    check(_libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"landlock rule for {path}")
    os.close(fd)


def landlock_abi() -> int:
    """The version of Landlock that this kernel offers; 0 when it has none or it is switched off."""
    return max(0, int(_libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)))


def restrict_calls(*, no_unix: bool, sockets_fd: int | None, no_fastopen: bool = False) -> None:
    """A seccomp filter that refuses what no app needs and escapes are made of (attack 34)."""
    machine = os.uname().machine
    if machine not in MACHINES:
        if no_unix or sockets_fd is not None:
            fail(f"no system call filter for {machine}")
        return
    program = filter_program(machine, no_unix=no_unix, brokered=sockets_fd is not None, no_fastopen=no_fastopen)
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    pointer = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    seccomp = MACHINES[machine][1]["seccomp"]
    if sockets_fd is None:
        check(_libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, 0, pointer), "seccomp")
        return
    # A signal to a thread that waits for its socket would start the call anew: it waits on, where the kernel can.
    listener = _libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_NEW_LISTENER | SECCOMP_KILLABLE_WAIT, pointer)
    if listener < 0:
        listener = _libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_NEW_LISTENER, pointer)
    check(listener, "seccomp's notifications")
    with_it = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener))]
    _socket.socket(fileno=sockets_fd).sendmsg([b"l"], with_it)
    os.close(listener)  # who has it could answer for the shim


def filter_program(
    machine: str, *, no_unix: bool, brokered: bool, no_fastopen: bool
) -> list[tuple[int, int, int, int]]:
    """The BPF steps (code, jump if true, jump if false, operand)."""
    architecture, numbers = MACHINES[machine]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, tell = 0x7FFF0000, 0x80000000, 0x7FC00000
    deny, absent, unknown = 0x00050000 | EPERM, 0x00050000 | ENOSYS, 0x00050000 | EAFNOSUPPORT
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":
        steps += [(at_least, 0, 1, 0x40000000), (give, 0, 0, deny)]  # the x32 table has numbers of its own
    conditional = {"ioctl", "socket", "connect", "clone", "seccomp", *FLAGS_AT}
    for name, number in {**numbers, **SAME_EVERYWHERE}.items():
        if name not in conditional:
            steps += [(equal, 0, 1, number), (give, 0, 0, absent if name == "clone3" else deny)]
    # The low half of each argument is enough: the kernel itself takes these as 32-bit values.
    for request in (TIOCSTI, TIOCLINUX):
        steps += [(equal, 0, 4, numbers["ioctl"]), (load, 0, 0, 24), (equal, 0, 1, request), (give, 0, 0, deny)]
        steps += [(load, 0, 0, 0)]
    steps += [(equal, 0, 4, numbers["clone"]), (load, 0, 0, 16), (any_bit, 0, 1, CLONE_NEWUSER), (give, 0, 0, deny)]
    steps += [(load, 0, 0, 0)]
    for name, argument in FLAGS_AT.items() if no_fastopen else ():
        steps += [(equal, 0, 4, numbers[name]), (load, 0, 0, 16 + 8 * argument)]
        steps += [(any_bit, 0, 1, MSG_FASTOPEN), (give, 0, 0, deny), (load, 0, 0, 0)]
    families = {AF_UNIX: deny if no_unix else allow}
    families |= dict.fromkeys((AF_INET, AF_INET6, AF_NETLINK), tell if brokered else allow)
    steps += [(equal, 0, 2 + 2 * len(families), numbers["socket"]), (load, 0, 0, 16)]
    for family, answer in families.items():
        steps += [(equal, 0, 1, family), (give, 0, 0, answer)]
    steps += [(give, 0, 0, unknown)]
    if brokered:
        steps += [(equal, 0, 1, numbers["connect"]), (give, 0, 0, tell)]
    return [*steps, (give, 0, 0, allow)]


def write_file(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - as small as can be
        file.write(text)


def check(result: int, what: str) -> int:
    if result < 0:
        fail(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def fail(why: str) -> None:
    """Say why on the app's stderr and end as a shell does when a command cannot be run."""
    os.write(2, f"freecloud: {why}\n".encode(errors="replace"))
    os._exit(126)


if __name__ == "__main__":
    main()
