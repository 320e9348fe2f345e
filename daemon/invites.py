"""Invites: making tokens, and being the desk where joiners are admitted (rule T2)."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import trio

from consensus.ledger import Ledger
from consensus.ledger_entries import Admit
from consensus.records import BootMark, Invite, Labels, Member, MemberStatus
from daemon.keys import KeyHolder
from daemon.membership import WELCOME, Welcome, own_shares
from daemon.services import Services
from gossip.members import MemberState
from mesh.admission import JoinProfile, VerifiedJoin
from mesh.errors import UnavailableError
from mesh.identity import Identity
from mesh.invite import InvitePin, InviteToken, encode_token, invite_signing_key
from mesh.names import MeshId, NodeId

PINS_MAX = 3
SECRET_BYTES = 16


def make_invite(services: Services, *, uses: int, expires_ms: int, labels: Labels) -> tuple[str, Invite]:
    """(the token as one line, the entry's invite). The secret is in the token alone.

    Raises:
        UnavailableError: This node's copy of the ledger does not know it: nobody could be pointed to it.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    token_id = secrets.token_hex(8)
    state = services.ledger.state
    mesh_id = state.mesh.mesh_id if state.mesh else MeshId("")
    token = InviteToken(mesh_id, token_id, secret, tuple(_pins(services)))
    invite = Invite(
        token_id=token_id,
        public_key=bytes(invite_signing_key(secret).verify_key),
        uses_max=uses,
        expires_ms=expires_ms,
        issuer=services.identity.node_id,
        trusted=True,
        labels=labels,
        used_by=(),
        voided=False,
    )
    return encode_token(token), invite


def _pins(services: Services) -> list[InvitePin]:
    """This node first, then up to two other trusted members that are alive."""
    views = services.gossip.view()
    members = services.ledger.state.active_members()
    me = members.get(services.identity.node_id)
    if me is None:
        raise UnavailableError(
            "this node has not learnt the ledger yet, so it can invite nobody",
            hint="try again in a moment, or on another node",
            code="ledger.empty",
        )
    others = [
        member
        for node_id, member in sorted(members.items())
        if member.trusted and node_id in views and views[node_id].state is MemberState.ALIVE and member is not me
    ]
    pins = []
    for member in [me, *others][:PINS_MAX]:
        record = views[member.node_id].record if member.node_id in views else None
        addresses = record.mesh_addresses if record else member.addresses
        pins.append(InvitePin.of(member.public_key, member.certificate, addresses))
    return pins


class Desk:
    """Admits who proved to hold a token; the ledger decides, this only asks it (attack 1)."""

    def __init__(self, ledger: Ledger, identity: Identity, keys: KeyHolder, note: Callable[[str, str], None]) -> None:
        self._ledger = ledger
        self._identity = identity
        self._keys = keys
        self._note = note

    @property
    def mesh_id(self) -> MeshId:
        mesh = self._ledger.state.mesh
        return mesh.mesh_id if mesh else MeshId("")

    async def invite_key(self, token_id: str, deadline: float) -> bytes | None:
        """The public key of the invite; the local copy may be behind, so "unknown" is asked of the leader first."""
        if token_id not in self._ledger.state.invites:
            await self._ledger.read_barrier(deadline=deadline)
        invite = self._ledger.state.invites.get(token_id)
        return invite.public_key if invite else None

    async def admit(self, request: VerifiedJoin, deadline: float) -> bytes:
        """Propose the admission and answer with the welcome."""
        state = self._ledger.state
        member = member_of(request.profile, request.node_id)
        shares = self._keys.shares_for(state.keys, member.public_key, member.node_id)
        committed = await self._ledger.propose(Admit(request.token_id, member, shares), deadline=deadline)
        with trio.fail_after(max(0.0, deadline - trio.current_time())):
            await self._ledger.wait_index(committed.index, deadline=deadline)
        self._note("node.joined", f"{committed.detail} joined by the token {request.token_id}")
        return WELCOME.encode(
            Welcome(
                self.mesh_id,
                state.mesh.epoch if state.mesh else 0,
                committed.index,
                committed.detail,
                tuple(state.active_members().values()),
                own_shares(state.keys.values(), member.node_id),
            )
        )


def member_of(profile: JoinProfile, node_id: NodeId) -> Member:
    """The member that a joiner describes itself as; what the invite grants is put in by apply."""
    return Member(
        node_id=node_id,
        name=profile.name,
        public_key=profile.public_key,
        certificate=profile.certificate,
        trusted=False,
        may_invite=False,
        may_vote=profile.may_vote,
        zone=profile.zone,
        provider=profile.provider,
        labels=profile.labels,
        addresses=profile.addresses,
        status=MemberStatus.ACTIVE,
        boot=BootMark(profile.store_id, profile.boot_counter, profile.boot_nonce),
        joined_ms=0,
        seen_alive=False,
        feature_level=profile.feature_level,
        away_until_ms=0,
        relearn=False,
    )
