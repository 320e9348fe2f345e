"""What an applied log means: the ledger's state machine.

`apply` is deterministic: no clock, no chance, no environment, nothing of this node (pitfall 28). For what an entry
says it never raises: a refusal is a result, the same on every replica (fault P2). What raises is an entry that this
program cannot read: that stops the node, which never skips (rule T6).

A proposal runs at most once: its session remembers the last sequence and its result (pitfall 27; Raft thesis §6.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from consensus import apply_apps, apply_credentials, apply_members
from consensus.ledger_entries import (
    LEDGER,
    AddInvite,
    Admit,
    Assign,
    ChangeMember,
    CreateMesh,
    Done,
    DropKey,
    Entry,
    MarkBack,
    MarkOut,
    MarkRelearned,
    MarkSeen,
    Noop,
    OpenEpoch,
    OpenSession,
    Proposal,
    PutApiToken,
    PutRelease,
    PutSecret,
    RaiseFeatureLevel,
    Refused,
    RegisterBoot,
    RemoveApp,
    RemoveMember,
    RemoveSecret,
    Result,
    RevokeApiToken,
    RotateKey,
    ScaleApp,
    SetApp,
    Unassign,
    VoidInvite,
)
from consensus.ledger_facts import SNAPSHOT, Context, Facts, Snapshot, done, from_snapshot, refused, to_snapshot
from consensus.records import (
    ApiToken,
    App,
    Assignment,
    Invite,
    KeyGeneration,
    Member,
    MeshRecord,
    Out,
    Release,
    SecretRecord,
    Session,
)
from mesh.errors import DamagedError, Kind, ProtocolError
from mesh.names import NodeId

Apply = Callable[[Facts, Any, Context], Result]


def _noop(facts: Facts, entry: Noop, context: Context) -> Result:
    return done()


APPLY: dict[type, Apply] = {
    Noop: _noop,
    OpenSession: apply_credentials.open_session,
    CreateMesh: apply_members.create_mesh,
    AddInvite: apply_members.add_invite,
    VoidInvite: apply_members.void_invite,
    Admit: apply_members.admit,
    RemoveMember: apply_members.remove_member,
    ChangeMember: apply_members.change_member,
    RegisterBoot: apply_members.register_boot,
    MarkSeen: apply_members.mark_seen,
    MarkRelearned: apply_members.mark_relearned,
    MarkOut: apply_members.mark_out,
    MarkBack: apply_members.mark_back,
    RotateKey: apply_members.rotate_key,
    DropKey: apply_members.drop_key,
    RaiseFeatureLevel: apply_members.raise_feature_level,
    OpenEpoch: apply_members.open_epoch,
    PutRelease: apply_apps.put_release,
    SetApp: apply_apps.set_app,
    ScaleApp: apply_apps.scale_app,
    RemoveApp: apply_apps.remove_app,
    Assign: apply_apps.assign,
    Unassign: apply_apps.unassign,
    PutApiToken: apply_credentials.put_api_token,
    RevokeApiToken: apply_credentials.revoke_api_token,
    PutSecret: apply_credentials.put_secret,
    RemoveSecret: apply_credentials.remove_secret,
}

WITHOUT_SESSION = (Noop, OpenSession, CreateMesh)


class LedgerState:
    """The agreed state at one index. Reading is free; only `apply` and `restore` change it."""

    def __init__(self) -> None:
        self._facts = Facts()
        self._applied = 0

    def apply(self, index: int, term: int, payload: bytes) -> bytes:
        """Apply the committed entry at this index; returns the encoded `Result`.

        Args:
            index: Exactly one above `applied` for entries in order; Raft's own entries are told by `advance`.
            term: The entry's term; part of no decision.
            payload: An encoded `Proposal`.

        Raises:
            UpgradeNeeded: The entry was written by a newer program; this node must stop.
            ProtocolError: The bytes are no proposal; they were checked before they were appended, so memory or disk
                lied and this node must stop.
        """
        if index <= self._applied:
            raise AssertionError(f"entry {index} was applied already, up to {self._applied}")
        proposal = LEDGER.decode(payload, Proposal)
        result = self._apply_once(proposal, Context(index, proposal.time_ms, proposal.proposer))
        self._applied = index
        return LEDGER.encode(result)

    def advance(self, index: int) -> None:
        """Note that the entry at this index was Raft's own (a no-op, a configuration) and means nothing here."""
        self._applied = max(self._applied, index)

    def _apply_once(self, proposal: Proposal, context: Context) -> Result:
        if isinstance(proposal.entry, WITHOUT_SESSION):
            return self._run(proposal.entry, context)
        session = self._facts.sessions.get(proposal.session_id)
        if session is None or session.node_id != proposal.proposer:
            return Refused(
                "session.unknown", Kind.UNAVAILABLE.value, "the ledger does not know this session (any more)", "", ""
            )
        if proposal.sequence == session.sequence and session.result:
            return LEDGER.decode(session.result)
        if proposal.sequence != session.sequence + 1:
            return Refused(
                "session.sequence",
                Kind.UNAVAILABLE.value,
                f"request {proposal.sequence} of this session is past or too early",
                f"the last one was {session.sequence}",
                "",
            )
        result = self._run(proposal.entry, context)
        if session.session_id in self._facts.sessions:  # not if the entry removed its own proposer
            self._facts.sessions[session.session_id] = replace(
                session, sequence=proposal.sequence, result=LEDGER.encode(result), last_index=context.index
            )
        return result

    def _run(self, entry: Entry, context: Context) -> Result:
        if not isinstance(entry, CreateMesh | Noop):
            proposer = self._facts.active(context.proposer)
            if proposer is None or not proposer.trusted:
                return refused("proposer", "only a trusted member proposes", context.proposer)
        return APPLY[type(entry)](self._facts, entry, context)

    def snapshot(self) -> bytes:
        """The whole state as canonical bytes: equal states give equal bytes."""
        return SNAPSHOT.encode(to_snapshot(self._facts, self._applied))

    def restore(self, payload: bytes) -> None:
        """Become the state that `snapshot` wrote.

        Raises:
            DamagedError: The bytes are no snapshot; nothing is changed.
        """
        try:
            message = SNAPSHOT.decode(payload, Snapshot)
        except ProtocolError as error:
            raise DamagedError("not a snapshot of a ledger", why=str(error)) from error
        self._facts = from_snapshot(message)
        self._applied = message.applied

    def digest(self) -> bytes:
        """32 bytes that are equal on every replica at the same index (rule C7)."""
        return hashlib.blake2b(self.snapshot(), digest_size=32).digest()

    @property
    def applied(self) -> int:
        """The index of the last applied entry; 0 before the first."""
        return self._applied

    @property
    def mesh(self) -> MeshRecord | None:
        return self._facts.mesh

    @property
    def members(self) -> MappingProxyType[NodeId, Member]:
        """Every member that ever was; removed ones stay as tombstones."""
        return MappingProxyType(self._facts.members)

    @property
    def invites(self) -> MappingProxyType[str, Invite]:
        return MappingProxyType(self._facts.invites)

    @property
    def keys(self) -> MappingProxyType[tuple[str, int], KeyGeneration]:
        return MappingProxyType(self._facts.keys)

    @property
    def apps(self) -> MappingProxyType[str, App]:
        return MappingProxyType(self._facts.apps)

    @property
    def releases(self) -> MappingProxyType[tuple[str, int], Release]:
        return MappingProxyType(self._facts.releases)

    @property
    def assignments(self) -> MappingProxyType[str, Assignment]:
        return MappingProxyType(self._facts.assignments)

    @property
    def outs(self) -> MappingProxyType[NodeId, Out]:
        return MappingProxyType(self._facts.outs)

    @property
    def tokens(self) -> MappingProxyType[str, ApiToken]:
        return MappingProxyType(self._facts.tokens)

    @property
    def secrets(self) -> MappingProxyType[str, SecretRecord]:
        return MappingProxyType(self._facts.secrets)

    @property
    def sessions(self) -> MappingProxyType[bytes, Session]:
        return MappingProxyType(self._facts.sessions)

    def active_members(self) -> dict[NodeId, Member]:
        """The members that were not removed."""
        return {node_id: member for node_id, member in self._facts.members.items() if self._facts.active(node_id)}

    def newest_key(self, purpose: str) -> KeyGeneration | None:
        return self._facts.newest_key(purpose)


def is_done(result: Result) -> bool:
    """True if the entry was applied, False if it was refused."""
    return isinstance(result, Done)
