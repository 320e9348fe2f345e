"""The agreed facts, and the one message that a snapshot of them is.

`Facts` is filled by the apply functions alone. Everyone else reads it; all values are frozen records, so a shallow
copy of a dictionary is a consistent view for as long as its reader likes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.ledger_entries import Done, Refused
from consensus.records import (
    ApiToken,
    App,
    Assignment,
    Invite,
    KeyGeneration,
    Member,
    MemberStatus,
    MeshRecord,
    Out,
    Release,
    SecretRecord,
    Session,
)
from mesh.errors import Kind
from mesh.names import NodeId
from mesh.versioned import Codec, Limits

SNAPSHOT = Codec(Limits(total_bytes_max=1024 * 1024 * 1024, bytes_max=16 * 1024 * 1024, items_max=1_000_000))
"""The ledger is refused at 1 GiB (limits page), so its snapshot is too."""

SESSIONS_MAX = 10_000
"""One proposer keeps up to 64; 10,000 members are the limit of a mesh, most of which propose rarely."""

RELEASES_KEPT = 10
"""Releases of an app that stay for a rollback; older ones that nothing refers to are dropped with the next deploy."""


@dataclass(slots=True)
class Facts:
    """Everything the mesh has agreed on, by its key."""

    mesh: MeshRecord | None = None
    members: dict[NodeId, Member] = field(default_factory=dict)
    invites: dict[str, Invite] = field(default_factory=dict)
    keys: dict[tuple[str, int], KeyGeneration] = field(default_factory=dict)
    apps: dict[str, App] = field(default_factory=dict)
    releases: dict[tuple[str, int], Release] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    outs: dict[NodeId, Out] = field(default_factory=dict)
    tokens: dict[str, ApiToken] = field(default_factory=dict)
    secrets: dict[str, SecretRecord] = field(default_factory=dict)
    sessions: dict[bytes, Session] = field(default_factory=dict)

    def active(self, node_id: NodeId) -> Member | None:
        """The member of this id unless it was removed."""
        member = self.members.get(node_id)
        return None if member is None or member.status is MemberStatus.REMOVED else member

    def newest_key(self, purpose: str) -> KeyGeneration | None:
        """The generation that seals; older ones only open."""
        found = [key for (name, _), key in self.keys.items() if name == purpose]
        return max(found, key=lambda key: key.generation, default=None)


@SNAPSHOT.message("ledger.snapshot")
@dataclass(frozen=True, slots=True)
class Snapshot:
    """All facts at one index, each kind in the order of its key, so that equal states have equal bytes."""

    applied: int
    mesh: MeshRecord | None
    members: tuple[Member, ...]
    invites: tuple[Invite, ...]
    keys: tuple[KeyGeneration, ...]
    apps: tuple[App, ...]
    releases: tuple[Release, ...]
    assignments: tuple[Assignment, ...]
    outs: tuple[Out, ...]
    tokens: tuple[ApiToken, ...]
    secrets: tuple[SecretRecord, ...]
    sessions: tuple[Session, ...]


def to_snapshot(facts: Facts, applied: int) -> Snapshot:
    """The facts as one message."""
    return Snapshot(
        applied,
        facts.mesh,
        *(
            tuple(value for _, value in sorted(table.items()))
            for table in (
                facts.members,
                facts.invites,
                facts.keys,
                facts.apps,
                facts.releases,
                facts.assignments,
                facts.outs,
                facts.tokens,
                facts.secrets,
                facts.sessions,
            )
        ),  # type: ignore[arg-type]  # the order is the message's
    )


def from_snapshot(snapshot: Snapshot) -> Facts:
    """The facts that `to_snapshot` wrote."""
    return Facts(
        mesh=snapshot.mesh,
        members={member.node_id: member for member in snapshot.members},
        invites={invite.token_id: invite for invite in snapshot.invites},
        keys={(key.purpose, key.generation): key for key in snapshot.keys},
        apps={app.name: app for app in snapshot.apps},
        releases={(release.app, release.number): release for release in snapshot.releases},
        assignments={assignment.replica_id: assignment for assignment in snapshot.assignments},
        outs={out.node_id: out for out in snapshot.outs},
        tokens={token.token_id: token for token in snapshot.tokens},
        secrets={secret.name: secret for secret in snapshot.secrets},
        sessions={session.session_id: session for session in snapshot.sessions},
    )


@dataclass(frozen=True, slots=True)
class Context:
    """What an apply function may know besides the facts: all of it stands in the log, none of it is this node's."""

    index: int
    time_ms: int  # the leader's, from the proposal
    proposer: NodeId


def done(detail: str = "") -> Done:
    return Done(detail)


def missing(what: str) -> Refused:
    return Refused("not-found", Kind.MISSING.value, what, "", "")


def conflict(what: str, why: str) -> Refused:
    return Refused("conflict", Kind.CONFLICT.value, what, why, "look again and decide anew")


def refused(code: str, what: str, why: str = "", hint: str = "") -> Refused:
    return Refused(code, Kind.REFUSED.value, what, why, hint)


def usage(what: str, why: str = "", hint: str = "") -> Refused:
    return Refused("usage", Kind.USAGE.value, what, why, hint)
