"""Which sockets an app may have, and what may come in by them (attack 35): pure. Imported by the shim: small.

Intuition: an app's mail goes out freely, but the postman throws away every reply from a neighbour. Without one there
is no conversation: a TCP connection whose SYN-ACK never arrives is never made.

Each socket of an app gets a filter that its own code cannot take off (SO_LOCK_FILTER), run by the kernel on every
packet that arrives for it. By the packet alone, without any list of addresses that could be out of date, it is known
what is near: it came by a loopback device (this machine speaking to itself, under whichever of its addresses) or from
a link-local address (where clouds keep their metadata, 169.254.169.254).

    TCP   SYN        only for the app's own port: no other port of this app can be reached, so that a port that it
                     took from a neighbour brings it nothing
          SYN-ACK    not from near, except of its own port and of a resolver (53)
          others     yes
    UDP   from near  only of a resolver (53)

What this does not stop: a datagram *to* a local port. Nobody answers it who could be heard.
Source: `linux/filter.h`, `net/core/filter.c` (the ancillary loads), socket(7) on SO_ATTACH_FILTER.
"""

from __future__ import annotations

AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 0, 1, 2, 10, 16
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW = 1, 2, 3
SOCK_KIND, SOCK_NONBLOCK, SOCK_CLOEXEC = 0xF, 0o4000, 0o2000000

KINDS = frozenset(
    {
        (AF_INET, SOCK_STREAM, 0), (AF_INET, SOCK_STREAM, 6), (AF_INET, SOCK_DGRAM, 0), (AF_INET, SOCK_DGRAM, 17),
        (AF_INET6, SOCK_STREAM, 0), (AF_INET6, SOCK_STREAM, 6), (AF_INET6, SOCK_DGRAM, 0), (AF_INET6, SOCK_DGRAM, 17),
        (AF_NETLINK, SOCK_RAW, 0), (AF_NETLINK, SOCK_DGRAM, 0),
    }
)  # fmt: skip
"""Family, type, protocol. Of netlink only routing, which tells programs what interfaces there are. A protocol that is
a stack of its own (SCTP, MPTCP, SMC) has ways to connect that the filter does not see."""

RESOLVER = 53

LOAD_BYTE, LOAD_HALF, LOAD_WORD, AND, EQUAL, GIVE = 0x30, 0x28, 0x20, 0x54, 0x15, 0x06
NETWORK_HEADER, DEVICE_TYPE = 0xFFF00000, 0xFFFFF000 + 28
LOOPBACK_DEVICE = 772
SYN, SYN_ACK = 0x02, 0x12
LINK_LOCAL_V4, LINK_LOCAL_V6, LINK_LOCAL_V6_MASK = 0xA9FE, 0xFE80, 0xFFC0
METADATA_V4 = (bytes((100, 100, 100, 200)), bytes((168, 63, 129, 16)))
METADATA_V6 = tuple(
    bytes.fromhex(first + "0" * (32 - len(first) - len(last)) + last)
    for first, last in (("fd000ec2", "0254"), ("fd2000ce", "0254"), ("fd0000c1", "a9fea9fe"))
)
"""Metadata addresses that are not link-local: Alibaba's, Azure's (whose resolver is there, too); and by IPv6 Amazon's,
Google's, Oracle's."""

Step = tuple[int, int | str, int | str, int]


def may_exist(family: int, kind: int, protocol: int) -> bool:
    """Whether an app may have such a socket at all; unix sockets are not asked about."""
    return (family, kind & SOCK_KIND, protocol) in KINDS


def packet_filter(kind: int, port: int) -> bytes:
    """The filter for a socket of this type in an app whose port this is, as the kernel takes it (sock_filter[])."""
    steps = _stream(port) if kind & SOCK_KIND == SOCK_STREAM else _datagram()
    return b"".join(
        code.to_bytes(2, "little") + bytes((yes, no)) + operand.to_bytes(4, "little")
        for code, yes, no, operand in assemble([*steps, *_from_near(), "accept", (GIVE, 0, 0, 0xFFFFFFFF)])
    )


def is_near(address: bytes) -> bool:
    """Whether this sockaddr is one that the filter will never let answer: then a connect may fail at once.

    A courtesy alone: without it, a program that asks for `localhost` would wait for minutes. This machine's own
    outside addresses are not known here, and not needed.
    """
    family = int.from_bytes(address[:2], "little")
    if int.from_bytes(address[2:4], "big") == RESOLVER:
        return False
    if family == AF_INET:
        host = address[4:8]
    elif family == AF_INET6:
        host = address[8:24]
        if host[:12] == bytes(10) + b"\xff\xff":
            host = host[12:]
        elif host[:12] == bytes(12) and host[12:] in (bytes(4), bytes(3) + b"\x01"):
            return True
        else:
            prefix = int.from_bytes(host[:2], "big")
            return prefix & LINK_LOCAL_V6_MASK == LINK_LOCAL_V6 or host in METADATA_V6
    else:
        return False
    return host[:1] in (b"\x7f", b"\x00") or int.from_bytes(host[:2], "big") == LINK_LOCAL_V4 or host in METADATA_V4


def host_of(address: bytes) -> str:
    """The host in an internet sockaddr, as text; an IPv4 address in IPv6 clothes without them."""
    host = address[8:24]
    if int.from_bytes(address[:2], "little") == AF_INET or host[:12] == bytes(10) + b"\xff\xff":
        v4 = address[4:8] if int.from_bytes(address[:2], "little") == AF_INET else host[12:]
        return ".".join(map(str, v4))
    return ":".join(f"{int.from_bytes(host[at : at + 2], 'big'):x}" for at in range(0, 16, 2))


def port_of(address: bytes) -> int:
    """The port in an internet sockaddr."""
    return int.from_bytes(address[2:4], "big")


def assemble(lines: list[Step | str]) -> list[tuple[int, int, int, int]]:
    """BPF steps with their jumps as numbers; a line that is a word names the step after it."""
    labels: dict[str, int] = {}
    steps: list[Step] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(steps)
        else:
            steps.append(line)

    def distance(place: int, target: int | str) -> int:
        return target if isinstance(target, int) else labels[target] - place - 1

    return [
        (code, distance(place, yes), distance(place, no), operand)
        for place, (code, yes, no, operand) in enumerate(steps)
    ]


def _stream(port: int) -> list[Step | str]:
    return [
        (LOAD_BYTE, 0, 0, 13), (AND, 0, 0, SYN_ACK),
        (EQUAL, "asked for", 0, SYN), (EQUAL, 0, "accept", SYN_ACK),
        (LOAD_HALF, 0, 0, 0), (EQUAL, "accept", 0, port), (EQUAL, "accept", "where from", RESOLVER),
        "asked for", (LOAD_HALF, 0, 0, 2), (EQUAL, "accept", "drop", port),
    ]  # fmt: skip


def _datagram() -> list[Step | str]:
    return [(LOAD_HALF, 0, 0, 0), (EQUAL, "accept", "where from", RESOLVER)]


def _from_near() -> list[Step | str]:
    """Drops what came from near, and falls through to what follows with the rest."""
    lines: list[Step | str] = [
        "where from", (LOAD_HALF, 0, 0, DEVICE_TYPE), (EQUAL, "drop", 0, LOOPBACK_DEVICE),
        (LOAD_BYTE, 0, 0, NETWORK_HEADER), (AND, 0, 0, 0xF0), (EQUAL, 0, "v6", 0x40),
        (LOAD_HALF, 0, 0, NETWORK_HEADER + 12), (EQUAL, "drop", 0, LINK_LOCAL_V4),
        (LOAD_WORD, 0, 0, NETWORK_HEADER + 12),
        *[(EQUAL, "drop", 0, int.from_bytes(address, "big")) for address in METADATA_V4],
        (EQUAL, "accept", "accept", 0),
        "v6", (LOAD_HALF, 0, 0, NETWORK_HEADER + 8), (AND, 0, 0, LINK_LOCAL_V6_MASK), (EQUAL, "drop", 0, LINK_LOCAL_V6),
    ]  # fmt: skip
    for address in METADATA_V6:
        other = f"not {address.hex()}"
        for at in range(0, 16, 4):
            word = int.from_bytes(address[at : at + 4], "big")
            lines += [(LOAD_WORD, 0, 0, NETWORK_HEADER + 8 + at), (EQUAL, "drop" if at == 12 else 0, other, word)]
        lines.append(other)
    return [*lines, (EQUAL, "accept", "accept", 0), "drop", (GIVE, 0, 0, 0)]
