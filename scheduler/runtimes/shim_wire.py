"""The shim's JSON, by the C halves of `json` alone: `re` and `enum`, which the module pulls in, weigh 1.2 MB a shim."""

from __future__ import annotations

import _json

TYPE_CHECKING = False  # what `typing` calls it, without importing `typing`
if TYPE_CHECKING:
    from typing import Any

PROTOCOL_VERSION = 1

INFO_FD = 3
ENV_FD = 4
SOCKETS_FD = 5
"""Where the sandbox tells the pid of what it started, where `confine.py` reads the app's environment, and where it
sends the descriptor by which the shim is asked for sockets."""


class _Settings:
    """What `json.loads` configures its C scanner with; the names are the scanner's."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner empties it after each document


def decode(text: str) -> dict[str, Any]:
    """The JSON object in this text; ValueError for anything else."""
    try:
        value, _ = _json.make_scanner(_Settings)(text.strip(), 0)  # type: ignore[arg-type]
    except (StopIteration, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def encode(value: Any) -> str:
    """Compact JSON of dicts, lists, text, numbers, booleans and None."""
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode(key)}:{encode(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(encode(part) for part in value) + "]"
    return repr(value)


def refusal(code: str, why: str) -> dict[str, Any]:
    """The answer to a request that is not done."""
    return {"v": PROTOCOL_VERSION, "ok": False, "code": code, "why": why}
