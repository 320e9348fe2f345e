"""What the filter on an app's sockets lets in, packet by packet, by an interpreter of its own; what a shim refuses."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest

from scheduler.runtimes.socket_rules import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    DEVICE_TYPE,
    LOOPBACK_DEVICE,
    NETWORK_HEADER,
    is_near,
    may_exist,
    packet_filter,
)

PORT = 20_123
ETHERNET = 1
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
SYN, SYN_ACK, ACK, RST = 0x02, 0x12, 0x10, 0x04

NEAR = (
    "169.254.169.254", "169.254.1.1", "100.100.100.200", "168.63.129.16",
    "fe80::1", "febf::9", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
)  # fmt: skip
FAR = ("198.51.100.7", "169.253.9.9", "169.255.0.1", "10.0.0.1", "fd00::2", "fec0::1", "fd00:ec2::255", "2001:db8::1")


def passes(kind: int, network: bytes, transport: bytes, device: int) -> bool:
    """Run the filter as the kernel does, with jumps forward alone."""
    steps = list(struct.iter_unpack("=HBBI", packet_filter(kind, PORT)))
    register, place = 0, 0
    while True:
        code, yes, no, operand = steps[place]
        place += 1
        match code:
            case 0x06:
                return operand != 0
            case 0x15:
                place += yes if register == operand else no
            case 0x54:
                register &= operand
            case _ if operand == DEVICE_TYPE:
                register = device
            case 0x30 | 0x28 | 0x20:
                size = {0x30: 1, 0x28: 2, 0x20: 4}[code]
                where, at = (network, operand - NETWORK_HEADER) if operand >= NETWORK_HEADER else (transport, operand)
                if at + size > len(where):
                    return False
                register = int.from_bytes(where[at : at + size], "big")
            case _:
                raise AssertionError(f"unknown code {code:#x}")


def network_header(source: str) -> bytes:
    address = ipaddress.ip_address(source)
    if address.version == 4:
        return b"\x45" + bytes(11) + address.packed + bytes(4)
    return b"\x60" + bytes(7) + address.packed + bytes(16)


def tcp(source: str, flags: int, *, source_port: int = 443, port: int = 40_000, device: int = ETHERNET) -> bool:
    segment = struct.pack("!HHIIBBHHH", source_port, port, 0, 0, 0x50, flags, 0, 0, 0)
    return passes(STREAM, network_header(source), segment, device)


def udp(source: str, *, source_port: int = 5000, device: int = ETHERNET) -> bool:
    return passes(DGRAM, network_header(source), struct.pack("!HHHH", source_port, 40_000, 8, 0), device)


@pytest.mark.parametrize("source", NEAR)
def test_nothing_answers_from_a_metadata_address(source: str) -> None:
    assert not tcp(source, SYN_ACK)
    assert not udp(source)


@pytest.mark.parametrize("source", FAR)
def test_what_is_far_answers(source: str) -> None:
    assert tcp(source, SYN_ACK)
    assert tcp(source, ACK)
    assert udp(source)


@pytest.mark.parametrize("source", ["127.0.0.1", "192.0.2.2", "::1", *FAR])
def test_nothing_answers_from_this_machine_under_whichever_address_but_a_resolver_and_the_app_itself(
    source: str,
) -> None:
    assert not tcp(source, SYN_ACK, device=LOOPBACK_DEVICE)
    assert not udp(source, device=LOOPBACK_DEVICE)
    assert tcp(source, SYN_ACK, source_port=PORT, device=LOOPBACK_DEVICE)
    assert tcp(source, SYN_ACK, source_port=53, device=LOOPBACK_DEVICE)
    assert udp(source, source_port=53, device=LOOPBACK_DEVICE)


@pytest.mark.parametrize("device", [LOOPBACK_DEVICE, ETHERNET])
def test_visitors_come_to_the_apps_own_port_alone_and_are_heard_there(device: int) -> None:
    assert tcp("127.0.0.1", SYN, port=PORT, device=device)
    assert not tcp("127.0.0.1", SYN, port=PORT + 1, device=device)
    assert tcp("127.0.0.1", ACK, port=PORT, device=device)
    assert tcp("127.0.0.1", RST, port=PORT, device=device)


def test_flags_beside_syn_make_no_difference() -> None:
    """ECN and urgent bits come with the first packets of ordinary connections, and of clever ones."""
    for more in (0x40, 0x80, 0xC0, 0x20, 0x08, 0x01):
        assert not tcp("127.0.0.1", SYN_ACK | more, device=LOOPBACK_DEVICE)
        assert not tcp("127.0.0.1", SYN | more, device=LOOPBACK_DEVICE)
        assert tcp("198.51.100.7", SYN_ACK | more)


def test_a_packet_that_is_cut_short_is_dropped() -> None:
    assert not passes(STREAM, network_header("198.51.100.7"), bytes(4), ETHERNET)


def test_only_plain_sockets_exist() -> None:
    for family in (AF_INET, AF_INET6):
        for kind in (STREAM, DGRAM):
            assert may_exist(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        assert not may_exist(family, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        assert not may_exist(family, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP)
        assert not may_exist(family, STREAM, 262)  # multipath TCP has sockets below its own
    assert may_exist(AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    assert not may_exist(AF_NETLINK, socket.SOCK_RAW, 4)  # of sockets: tells who listens where


@pytest.mark.parametrize(
    ("host", "near"),
    [(host, True) for host in (*NEAR, "127.0.0.1", "127.8.8.8", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1")]
    + [(host, False) for host in (*FAR, "::ffff:198.51.100.7")],
)
def test_a_connection_that_would_wait_in_vain_is_refused_at_once(host: str, near: bool) -> None:
    assert is_near(_socket_address(host, 80)) is near
    assert not is_near(_socket_address(host, 53))


def _socket_address(host: str, port: int) -> bytes:
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return struct.pack("=H", AF_INET) + struct.pack("!H", port) + address.packed + bytes(8)
    return struct.pack("=H", AF_INET6) + struct.pack("!HI", port, 0) + address.packed + bytes(4)
