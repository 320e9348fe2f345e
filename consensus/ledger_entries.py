"""Every kind of entry the ledger can hold, and the results of applying one.

A proposal is an entry with the proposer's session and sequence and the leader's time. Applying never raises for what
an entry *says*: a refusal is a result, equal on every replica (fault P2). An entry of an unknown kind stops the node
with "upgrade" (rule T6).
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.records import (
    ApiToken,
    App,
    BootMark,
    Invite,
    KeyGeneration,
    KeyShare,
    Labels,
    Member,
    MeshRecord,
    Release,
    SecretRecord,
)
from mesh.names import NodeId
from mesh.versioned import Codec

LEDGER = Codec()
"""The codec of everything that is proposed, applied or snapshotted."""


# --- the mesh and its members ---------------------------------------------------------------------------------


@LEDGER.message("ledger.noop")
@dataclass(frozen=True, slots=True)
class Noop:
    """What a new leader appends to commit its term (Raft §8), and what a linearizable check may write."""


@LEDGER.message("ledger.open-session")
@dataclass(frozen=True, slots=True)
class OpenSession:
    """Gives the proposer a session; its id, in hex, is the result's detail.

    The id is the entry's own index, so a session that was dropped can never come to life again under its old id,
    and a duplicate of this entry only makes one more session.
    """


@LEDGER.message("ledger.create-mesh")
@dataclass(frozen=True, slots=True)
class CreateMesh:
    """Always the first entry: the mesh, its first member and the first generation of each mesh key."""

    mesh: MeshRecord
    founder: Member
    keys: tuple[KeyGeneration, ...]


@LEDGER.message("ledger.add-invite")
@dataclass(frozen=True, slots=True)
class AddInvite:
    invite: Invite


@LEDGER.message("ledger.void-invite")
@dataclass(frozen=True, slots=True)
class VoidInvite:
    token_id: str


@LEDGER.message("ledger.admit")
@dataclass(frozen=True, slots=True)
class Admit:
    """A use of an invite. Check and decrement are one step of apply (attack 1); the same key gets the same answer."""

    token_id: str
    member: Member
    shares: tuple[KeyShare, ...]  # the mesh keys, sealed to the joiner by whoever admits it


@LEDGER.message("ledger.remove-member")
@dataclass(frozen=True, slots=True)
class RemoveMember:
    node_id: NodeId
    reason: str


@LEDGER.message("ledger.change-member")
@dataclass(frozen=True, slots=True)
class ChangeMember:
    """New values for what an operator may change; None leaves a field as it is."""

    node_id: NodeId
    labels: Labels | None
    zone: str | None
    draining: bool | None
    may_invite: bool | None
    may_vote: bool | None
    away_until_ms: int | None
    addresses: tuple[str, ...] | None
    feature_level: int | None


@LEDGER.message("ledger.register-boot", version=2, upgrades={1: lambda fields: [*fields, [], False]})
@dataclass(frozen=True, slots=True)
class RegisterBoot:
    """A node's start. Refused (`fenced.old`, `fenced.store`, `fenced.clone`) when the ledger knows better (rule T3)."""

    node_id: NodeId
    boot: BootMark
    new_store: bool  # the node says itself that its log is new: it comes back as a learner
    follows: tuple[BootMark, ...] = ()  # as far as its home knows, one of these is what the ledger names; (): not told
    copied: bool = False  # the node says itself that its home is a copy: what was promised since is not in it


@LEDGER.message("ledger.mark-seen")
@dataclass(frozen=True, slots=True)
class MarkSeen:
    """The leader saw these members alive for the first time."""

    node_ids: tuple[NodeId, ...]


@LEDGER.message("ledger.mark-relearned")
@dataclass(frozen=True, slots=True)
class MarkRelearned:
    """The leader made this member, whose log was new, a learner that caught up: its votes may count again."""

    node_id: NodeId


@LEDGER.message("ledger.mark-out")
@dataclass(frozen=True, slots=True)
class MarkOut:
    """The leader's duty: this node was down too long; only this moves what ran on it."""

    node_id: NodeId
    reason: str


@LEDGER.message("ledger.mark-back")
@dataclass(frozen=True, slots=True)
class MarkBack:
    node_id: NodeId


@LEDGER.message("ledger.rotate-key")
@dataclass(frozen=True, slots=True)
class RotateKey:
    """A new generation of a mesh key; must be exactly one above the last."""

    key: KeyGeneration


@LEDGER.message("ledger.drop-key")
@dataclass(frozen=True, slots=True)
class DropKey:
    purpose: str
    generation: int


@LEDGER.message("ledger.raise-feature-level")
@dataclass(frozen=True, slots=True)
class RaiseFeatureLevel:
    level: int


@LEDGER.message("ledger.open-epoch")
@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """`freecloud recover`: the survivors go on under a new epoch (rule T5)."""

    epoch: int
    reason: str


# --- apps -----------------------------------------------------------------------------------------------------


@LEDGER.message("ledger.put-release")
@dataclass(frozen=True, slots=True)
class PutRelease:
    """A deploy: the release becomes the app's current one. Its number must be the next one of the app."""

    release: Release
    replicas: int


@LEDGER.message("ledger.set-app")
@dataclass(frozen=True, slots=True)
class SetApp:
    """Roll back, mark a release stable or failed. The number of replicas stays the ledger's (see `ScaleApp`).

    Args of apply: `expected_current` must be the app's current release or the entry is refused as `conflict`,
    so that an old plan never lands on a newer deploy (fault O2).
    """

    expected_current: int
    app: App


@LEDGER.message("ledger.scale-app")
@dataclass(frozen=True, slots=True)
class ScaleApp:
    """How many replicas a user wants; an entry of its own, so that no plan of a leader can undo it."""

    app: str
    replicas: int


@LEDGER.message("ledger.remove-app")
@dataclass(frozen=True, slots=True)
class RemoveApp:
    name: str


@LEDGER.message("ledger.assign")
@dataclass(frozen=True, slots=True)
class Assign:
    """Put one new replica of a release on a node.

    `number` becomes part of its id, and must be the app's next one: of two plans made from one view only the first
    lands, so a deposed leader's late plan never adds a second replica (fault O2).
    """

    app: str
    release: int
    node: NodeId
    reason: str
    number: int


@LEDGER.message("ledger.unassign")
@dataclass(frozen=True, slots=True)
class Unassign:
    """Take a replica away. `index` is the assignment's; another one is refused as `conflict`."""

    replica_id: str
    index: int
    reason: str


# --- credentials ----------------------------------------------------------------------------------------------


@LEDGER.message("ledger.put-api-token")
@dataclass(frozen=True, slots=True)
class PutApiToken:
    token: ApiToken


@LEDGER.message("ledger.revoke-api-token")
@dataclass(frozen=True, slots=True)
class RevokeApiToken:
    token_id: str


@LEDGER.message("ledger.put-secret")
@dataclass(frozen=True, slots=True)
class PutSecret:
    secret: SecretRecord


@LEDGER.message("ledger.remove-secret")
@dataclass(frozen=True, slots=True)
class RemoveSecret:
    name: str


# --- the envelope and its results -----------------------------------------------------------------------------

Entry = (
    Noop
    | OpenSession
    | CreateMesh
    | AddInvite
    | VoidInvite
    | Admit
    | RemoveMember
    | ChangeMember
    | RegisterBoot
    | MarkSeen
    | MarkRelearned
    | MarkOut
    | MarkBack
    | RotateKey
    | DropKey
    | RaiseFeatureLevel
    | OpenEpoch
    | PutRelease
    | SetApp
    | ScaleApp
    | RemoveApp
    | Assign
    | Unassign
    | PutApiToken
    | RevokeApiToken
    | PutSecret
    | RemoveSecret
)


@LEDGER.message("ledger.proposal")
@dataclass(frozen=True, slots=True)
class Proposal:
    """One request in one session. The same (session, sequence) again returns the stored result and runs nothing.

    Only `Noop`, `OpenSession` and `CreateMesh` may come without a session (session_id b"", sequence 0). A session
    that the ledger does not know (any more) is refused as `session.unknown`: the proposer opens another, and an
    outcome it was still waiting for is unknown to it (never run twice).
    """

    proposer: NodeId
    session_id: bytes  # as OpenSession gave it
    sequence: int  # 1, 2, 3 …; one in flight a session (a proposer holds several sessions)
    time_ms: int  # the leader's clock when it took the request
    entry: Entry


@LEDGER.message("ledger.done")
@dataclass(frozen=True, slots=True)
class Done:
    """Applied. `detail` names what apply decided (a replica id); usually empty."""

    detail: str


@LEDGER.message("ledger.refused")
@dataclass(frozen=True, slots=True)
class Refused:
    """Understood and not done; the fields are those of an error of `mesh.errors`."""

    code: str
    kind: str  # mesh.errors.Kind value
    what: str
    why: str
    hint: str


Result = Done | Refused
