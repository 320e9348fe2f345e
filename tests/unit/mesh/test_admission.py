"""Joining over real sockets: who gets a welcome, and which error everyone else is told."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from mesh.admission import JoinProfile, VerifiedJoin, join
from mesh.errors import ConflictError, InviteRefused, NoQuorumError, RefusedError, UnreachableError
from mesh.identity import Identity, create_identity
from mesh.invite import InvitePin, InviteToken, invite_signing_key
from mesh.names import MeshId
from mesh.transports.stream import Stream
from mesh.transports.tcp import dial_tcp
from tests.unit.mesh.nodes import MESH, Node, make_nodes, running, soon


@dataclass
class Desk:
    """A ledger of invites in a dictionary."""

    mesh_id: MeshId = MESH
    keys: dict[str, bytes] = field(default_factory=dict)
    admitted: list[VerifiedJoin] = field(default_factory=list)
    error: Exception | None = None

    async def invite_key(self, token_id: str, deadline: float) -> bytes | None:
        return self.keys.get(token_id)

    async def admit(self, request: VerifiedJoin, deadline: float) -> bytes:
        if self.error is not None:
            raise self.error
        self.admitted.append(request)
        return b"welcome " + request.profile.name.encode()


def profile_of(identity: Identity) -> JoinProfile:
    return JoinProfile(
        name="joiner",
        certificate=identity.certificate,
        public_key=identity.public_key,
        zone="home",
        provider="",
        labels=(("disk", "ssd"),),
        addresses=("127.0.0.1:6700",),
        may_vote=True,
        store_id=b"s" * 16,
        boot_counter=1,
        boot_nonce=b"n" * 8,
        feature_level=1,
    )


def token_for(*nodes: Node, addresses: tuple[str, ...] = ()) -> InviteToken:
    pins = tuple(
        InvitePin.of(node.identity.public_key, node.identity.certificate, addresses or (node.address,))
        for node in nodes
    )
    token = InviteToken(MESH, "t1", secrets.token_bytes(16), pins)
    for node in nodes:
        desk = node.peers.desk
        assert isinstance(desk, Desk)
        desk.keys["t1"] = bytes(invite_signing_key(token.secret).verify_key)
    return token


def with_desks(folder: Path, count: int = 1) -> list[Node]:
    nodes = make_nodes(folder, count)
    for node in nodes:
        node.peers.desk = Desk()
    return nodes


async def test_a_joiner_with_a_token_is_welcomed_as_the_owner_of_its_key(tmp_path: Path) -> None:
    (member,) = with_desks(tmp_path)
    joiner = create_identity(tmp_path / "joiner")
    async with running([member]):
        token = token_for(member)
        assert await join(token, joiner, profile_of(joiner), deadline=soon()) == b"welcome joiner"
        assert isinstance(member.peers.desk, Desk)
        (request,) = member.peers.desk.admitted
        assert (request.token_id, request.node_id, request.profile) == (
            "t1",
            joiner.node_id,
            profile_of(joiner),
        )
        with trio.fail_after(5):
            while member.peers.statistics().joins_admitted == 0:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert member.peers.statistics().strangers.now == 0


async def test_each_wrong_token_is_told_what_is_wrong_with_it(tmp_path: Path) -> None:
    (member,) = with_desks(tmp_path)
    joiner = create_identity(tmp_path / "joiner")
    async with running([member]):
        token = token_for(member)
        wrong = {
            "invite.unknown": replace(token, token_id="t2"),
            "invite.foreign": replace(token, mesh_id=MeshId("b" * 26)),
            "invite.damaged": replace(token, secret=secrets.token_bytes(16)),
        }
        for code, bad in wrong.items():
            with pytest.raises(InviteRefused) as refused:
                await join(bad, joiner, profile_of(joiner), deadline=soon())
            assert refused.value.stable_code == code
        assert isinstance(member.peers.desk, Desk) and member.peers.desk.admitted == []


async def test_what_the_ledger_says_travels_to_the_joiner(tmp_path: Path) -> None:
    (member,) = with_desks(tmp_path)
    joiner = create_identity(tmp_path / "joiner")
    async with running([member]):
        token = token_for(member)
        for error in (
            InviteRefused("used up", code="invite.used-up"),
            InviteRefused("too late", code="invite.expired"),
            NoQuorumError("two of three voters are away"),
            ConflictError("the name is taken"),
        ):
            assert isinstance(member.peers.desk, Desk)
            member.peers.desk.error = error
            with pytest.raises(type(error)) as told:
                await join(token, joiner, profile_of(joiner), deadline=soon())
            assert (told.value.stable_code, told.value.what) == (error.stable_code, error.what)


async def test_a_joiner_asks_the_next_member_when_one_cannot_answer(tmp_path: Path) -> None:
    gone, undecided, able = with_desks(tmp_path, 3)
    joiner = create_identity(tmp_path / "joiner")
    async with running([undecided, able]):
        gone.address = "127.0.0.1:1"
        token = token_for(gone, undecided, able)
        assert isinstance(undecided.peers.desk, Desk)
        undecided.peers.desk.error = NoQuorumError("no leader")
        assert await join(token, joiner, profile_of(joiner), deadline=soon()) == b"welcome joiner"


async def test_no_member_reached_is_unreachable(tmp_path: Path) -> None:
    (member,) = with_desks(tmp_path)
    joiner = create_identity(tmp_path / "joiner")
    token = token_for(member, addresses=("127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(UnreachableError, match="none of the members"):
        await join(token, joiner, profile_of(joiner), deadline=soon())


async def test_another_node_at_the_members_address_gets_no_byte_of_the_joiner(tmp_path: Path) -> None:
    member, rogue = with_desks(tmp_path, 2)
    joiner = create_identity(tmp_path / "joiner")
    async with running([rogue]):
        token = token_for(member, addresses=(rogue.address,))
        with pytest.raises(InviteRefused, match="not the node") as refused:
            await join(token, joiner, profile_of(joiner), deadline=soon())
        assert refused.value.stable_code == "invite.foreign"
        assert isinstance(rogue.peers.desk, Desk) and rogue.peers.desk.admitted == []


async def test_a_joiner_must_own_the_key_it_shows(tmp_path: Path) -> None:
    (member,) = with_desks(tmp_path)
    joiner, other = create_identity(tmp_path / "joiner"), create_identity(tmp_path / "other")
    async with running([member]):
        token = token_for(member)
        with pytest.raises(RefusedError) as refused:
            await join(token, joiner, profile_of(other), deadline=soon())
        assert refused.value.stable_code == "join.key"
        borrowed = replace(profile_of(joiner), certificate=other.certificate)
        with pytest.raises(RefusedError) as refused:
            await join(token, joiner, borrowed, deadline=soon())
        assert refused.value.stable_code == "join.certificate"


class Recording:
    """A stream that remembers what was sent through it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.sent = b""

    async def send_all(self, payload: bytes) -> None:
        self.sent += payload
        await self._stream.send_all(payload)

    def try_send(self, payload: bytes) -> bool:
        self.sent += payload
        return self._stream.try_send(payload)

    async def receive_some(self, bytes_max: int) -> bytes:
        return await self._stream.receive_some(bytes_max)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_the_secret_never_travels_and_a_silent_member_is_given_up(tmp_path: Path) -> None:
    (member,) = with_desks(tmp_path)
    joiner = create_identity(tmp_path / "joiner")
    recorded: list[Recording] = []

    async def dial(address: str) -> Stream:
        recorded.append(Recording(await dial_tcp(address)))
        return recorded[-1]

    async with running([member]):
        token = token_for(member)
        await join(token, joiner, profile_of(joiner), deadline=soon(), dial=dial)
        assert recorded and all(token.secret not in stream.sent for stream in recorded)


async def test_half_open_connections_are_bounded_and_give_way_after_their_time(tmp_path: Path) -> None:
    (member,) = with_desks(tmp_path)
    joiner = create_identity(tmp_path / "joiner")
    async with running([member]):
        token = token_for(member)
        port = int(member.address.split(":")[1])
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(64)]
        with trio.fail_after(5):
            while member.peers.statistics().strangers.now < 64:
                await trio.testing.wait_all_tasks_blocked(0.001)
        with pytest.raises(UnreachableError):
            await join(token, joiner, profile_of(joiner), deadline=soon())
        assert member.peers.statistics().strangers.refused >= 1
        for stream in silent:
            await stream.aclose()
        with trio.fail_after(5):
            while member.peers.statistics().strangers.now:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert await join(token, joiner, profile_of(joiner), deadline=soon()) == b"welcome joiner"
