"""A joiner with a valid token is still a stranger: what it says of itself is bounded before any member believes it.

Each of these, believed, would have stopped every daemon of the mesh, hidden another node, or commanded a terminal.
"""

from __future__ import annotations

import shutil
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.home import Home
from mesh.admission import JoinProfile, join
from mesh.errors import EXIT_STATUS, FreecloudError, ProtocolError
from mesh.identity import Identity, certificate_public_key, create_identity
from mesh.invite import decode_token
from tests.e2e.cluster import Cluster, Daemon, wait_until


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made = Cluster(folder)
    try:
        first = made.start(2)[0]
        pids = [each.pid for each in made.nodes]
        yield first
        assert [each.pid for each in made.nodes] == pids, "both daemons still run"
        for each in made.nodes:
            log = Home(each.home).daemon_log.read_text()
            assert "Traceback" not in log, log
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def honest(identity: Identity) -> JoinProfile:
    return JoinProfile(
        name="joiner",
        certificate=identity.certificate,
        public_key=identity.public_key,
        zone="",
        provider="",
        labels=(),
        addresses=("127.0.0.1:9",),
        may_vote=False,
        store_id=b"s" * 16,
        boot_counter=1,
        boot_nonce=b"n" * 8,
        feature_level=1,
    )


def ask(node: Daemon, folder: Path, **lies: Any) -> FreecloudError | None:
    """Join as a program of one's own that says these things; what it is told, or None if it is let in."""
    identity = create_identity(folder / "joiner")
    token = decode_token(node.run("invite").out.strip())
    profile = replace(honest(identity), **{key: lie(identity) if callable(lie) else lie for key, lie in lies.items()})
    try:
        trio.run(lambda: _join(token, identity, profile))
    except FreecloudError as error:
        return error
    return None


async def _join(token: Any, identity: Identity, profile: JoinProfile) -> bytes:
    return await join(token, identity, profile, deadline=trio.current_time() + 20)


def unreadable(identity: Identity) -> bytes:
    """The certificate with one byte changed so that the key is still found, and TLS cannot read it any more."""
    for at in range(len(identity.certificate)):
        changed = bytearray(identity.certificate)
        changed[at] ^= 0x55
        try:
            if certificate_public_key(bytes(changed)) != identity.public_key:
                continue
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=bytes(changed))
        except ProtocolError:
            continue
        except ssl.SSLError:
            return bytes(changed)
    raise AssertionError("no such byte")


def forged(identity: Identity) -> bytes:
    """The certificate with another signature."""
    return identity.certificate[:-1] + bytes([identity.certificate[-1] ^ 1])


LIES: dict[str, tuple[dict[str, Any], int]] = {
    "a name that is shell": ({"name": "$(reboot)"}, 2),
    "a name that is a path": ({"name": "../../etc"}, 2),
    "a name that commands a terminal": ({"name": "\x1b]0;owned\x07"}, 2),
    "a name that is another's id": ({"name": lambda identity: "a" * 26}, 2),
    "no name": ({"name": ""}, 2),
    "a long name": ({"name": "x" * 500}, 2),
    "a zone that reverses what follows": ({"zone": "\u202eflat"}, 2),
    "a provider without end": ({"provider": "x" * 500}, 2),
    "more labels than anybody has": ({"labels": tuple((f"k{n}", "v") for n in range(100))}, 2),
    "a label of two lines": ({"labels": (("disk", "a\nb"),)}, 2),
    "a label with no name": ({"labels": (("", "x"),)}, 2),
    "a label twice": ({"labels": (("a", "1"), ("a", "2"))}, 2),
    "an address that breaks resolvers": ({"addresses": ("a..b:6700",)}, 2),
    "an address of a label too long": ({"addresses": ("x" * 64 + ".example:6700",)}, 2),
    "an address without a port": ({"addresses": ("127.0.0.1",)}, 2),
    "an address that is nothing": ({"addresses": ("",)}, 2),
    "no address": ({"addresses": ()}, 2),
    "a hundred addresses": ({"addresses": tuple(f"127.0.0.1:{n}" for n in range(1, 101))}, 2),
    "a start that never comes again": ({"boot_counter": 2**63 - 1}, 4),
    "a start before the first": ({"boot_counter": -1}, 4),
    "a level of the far future": ({"feature_level": 2**62}, 4),
    "a certificate that TLS cannot read": ({"certificate": unreadable}, 4),
    "a certificate that nobody signed": ({"certificate": forged}, 4),
    "no certificate": ({"certificate": b""}, 4),
    "a large certificate": ({"certificate": lambda identity: identity.certificate + b"\0" * 700}, 4),
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_joiner_with_a_valid_token_that_lies_is_refused_and_nobody_is_harmed(
    lie: str, node: Daemon, tmp_path: Path
) -> None:
    lies, status = LIES[lie]
    error = ask(node, tmp_path, **lies)
    assert error is not None, "it was let in"
    assert EXIT_STATUS[error.kind] == status, repr(error)
    assert str(error).isprintable()
    assert len(node.client.get("/v1/nodes")["nodes"]) == 2


def test_a_joiner_that_asks_for_more_than_its_invite_grants_gets_what_it_grants(node: Daemon, tmp_path: Path) -> None:
    """An honest one, and one of the same name: each has a name of its own, and the members still run."""
    assert ask(node, tmp_path / "a") is None
    assert ask(node, tmp_path / "b", name="joiner", may_vote=True) is None
    names = [row["name"] for row in node.client.get("/v1/nodes")["nodes"]]
    assert sorted(names) == ["joiner", "joiner-2", "n1", "n2"]
    wait_until("the mesh still decides", lambda: node.run("secrets", "set", "A", stdin="x").status == 0)
    for name in ("joiner", "joiner-2"):
        assert node.run("nodes", "remove", name).status == 0
