"""What a node may say of itself, wherever it is said: by its owner's settings, by a joiner, by a gossiped record.

Names go into terminals, host names, paths and other people's scripts; addresses are dialled by every member. So both
have one form, checked here and nowhere else. Everything here is pure; the errors say what is wrong and how it is right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from mesh.errors import UsageError

NAME_CHARS_MAX = 40
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""A DNS label (RFC 1035) with room for the number that makes it unique."""

NODE_ID = re.compile(r"[a-z2-7]{26}")
"""What a node's id looks like: a name of that form would make another node's id ambiguous."""

LABEL_KEY = re.compile(r"[A-Za-z0-9._/-]{1,63}")
TEXT_CHARS_MAX = 63
LABELS_MAX = 64
ADDRESSES_MAX = 8
HOST_CHARS_MAX = 253
_HOST_PART = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def check_name(name: str) -> str:
    """Raises UsageError unless this can be a node's name."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} cannot be a node's name",
            why=f"1 to {NAME_CHARS_MAX} of a-z, 0-9 and -, not - at an end",
            hint="set --name",
        )
    if NODE_ID.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a node's name", why="it looks like a node's id", hint="set --name")
    return name


def check_text(what: str, text: str) -> str:
    """Raises UsageError unless this is a short text that can be shown."""
    if len(text) > TEXT_CHARS_MAX or not text.isprintable():
        raise UsageError(f"a {what} has at most {TEXT_CHARS_MAX} printable characters", hint=f"set --{what}")
    return text


def check_labels(labels: Iterable[tuple[str, str]]) -> None:
    """Raises UsageError unless these can be a node's labels."""
    pairs = list(labels)
    if len(pairs) > LABELS_MAX:
        raise UsageError(f"a node has at most {LABELS_MAX} labels", why=f"these are {len(pairs)}")
    if len({key for key, _ in pairs}) < len(pairs):
        raise UsageError("a label is given twice")
    for key, value in pairs:
        if not LABEL_KEY.fullmatch(key) or len(value) > TEXT_CHARS_MAX or not value.isprintable():
            raise UsageError(
                f"{key[:80]!r}={value[:80]!r} cannot be a label",
                why=f"keys: 1 to 63 of A-Z a-z 0-9 . _ / -; values: {TEXT_CHARS_MAX} printable characters",
            )


def labels_of(texts: Iterable[str]) -> dict[str, str]:
    """The labels that were written as key=value."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"a label is key=value, not {text[:80]!r}")
        pairs[key] = value
    check_labels(pairs.items())
    return pairs


def check_address(address: str) -> str:
    """Raises UsageError unless this is HOST:PORT that can be dialled: a name, an IPv4, or an IPv6 in brackets."""
    host, separator, port = address.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit() and len(port) < 6) or not 0 < int(port) < 65536:
        raise UsageError(f"{address[:80]!r} is no address", why="its port is 1 to 65535", hint="write HOST:PORT")
    if not is_host(host):
        raise UsageError(f"{address[:80]!r} is no address", why="its host is none", hint="write HOST:PORT")
    return address


def is_host(host: str) -> bool:
    """Whether a resolver can be asked for this: an IP address, or a DNS name."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        parts = host.removesuffix(".").split(".")
        return len(host) <= HOST_CHARS_MAX and all(_HOST_PART.fullmatch(part) for part in parts)
    return len(host) <= HOST_CHARS_MAX and host.isprintable() and (version == 4) is (bare == host)
