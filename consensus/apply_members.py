"""Applying entries about the mesh, its members, invites and keys (rules T1 to T6).

Each function takes the facts, the entry and its context, checks, changes and answers in one step: what is checked
here cannot be raced (attack 1). Nothing is changed when the answer is a refusal.
"""

from __future__ import annotations

from dataclasses import replace

from consensus.ledger_entries import (
    AddInvite,
    Admit,
    ChangeMember,
    CreateMesh,
    DropKey,
    MarkBack,
    MarkOut,
    MarkRelearned,
    MarkSeen,
    OpenEpoch,
    RaiseFeatureLevel,
    RegisterBoot,
    RemoveMember,
    Result,
    RotateKey,
    VoidInvite,
)
from consensus.ledger_facts import Context, Facts, conflict, done, missing, refused, usage
from consensus.records import Invite, KeyShare, Member, MemberStatus, Out
from mesh.claims import NAME_CHARS_MAX
from mesh.names import NodeId, node_id_of

MEMBERS_MAX = 10_000
INVITE_USES_MAX = 100
INVITE_LIFE_MS_MAX = 30 * 24 * 3600 * 1000
KEY_DROP_AFTER_MS = 24 * 3600 * 1000
INVITE_KEPT_MS = 7 * 24 * 3600 * 1000
"""A spent invite stays a week, so that "expired" and "used up" can be told from "unknown"."""


def create_mesh(facts: Facts, entry: CreateMesh, context: Context) -> Result:
    if facts.mesh is not None:
        return conflict("this mesh exists already", facts.mesh.mesh_id)
    facts.mesh = entry.mesh
    facts.members[entry.founder.node_id] = entry.founder
    for key in entry.keys:
        facts.keys[key.purpose, key.generation] = key
    return done(entry.mesh.mesh_id)


def add_invite(facts: Facts, entry: AddInvite, context: Context) -> Result:
    invite = entry.invite
    issuer = facts.active(invite.issuer)
    if issuer is None or invite.issuer != context.proposer:
        return refused("invite.issuer", "only a member invites, and in its own name")
    if not (issuer.trusted and issuer.may_invite):
        return refused("invite.issuer", f"{issuer.name} may not invite")
    if not 1 <= invite.uses_max <= INVITE_USES_MAX:
        return usage(f"an invite has 1 to {INVITE_USES_MAX} uses")
    if not context.time_ms < invite.expires_ms <= context.time_ms + INVITE_LIFE_MS_MAX:
        return usage("an invite expires in the future and within 30 days", hint="check this machine's clock")
    if invite.token_id in facts.invites or invite.used_by or invite.voided:
        return conflict("this invite exists already", invite.token_id)
    for old in [old for old in facts.invites.values() if old.expires_ms + INVITE_KEPT_MS < context.time_ms]:
        del facts.invites[old.token_id]
    facts.invites[invite.token_id] = invite
    return done(invite.token_id)


def void_invite(facts: Facts, entry: VoidInvite, context: Context) -> Result:
    invite = facts.invites.get(entry.token_id)
    if invite is None:
        return missing(f"no invite {entry.token_id}")
    facts.invites[invite.token_id] = replace(invite, voided=True)
    return done()


def admit(facts: Facts, entry: Admit, context: Context) -> Result:
    member = entry.member
    if node_id_of(member.public_key) != member.node_id:
        return refused("invite.key", "the node's id is not the hash of its key")
    invite = facts.invites.get(entry.token_id)
    if invite is None:
        return refused("invite.unknown", "this mesh knows no such invite", hint="ask for a new token")
    known = facts.members.get(member.node_id)
    if known is not None and known.status is MemberStatus.REMOVED:
        return refused("invite.removed", f"{known.name} was removed from this mesh", "a removed key never comes back")
    if known is not None and member.node_id in invite.used_by:
        return done(known.name)
    reason = invite_refusal(invite, context.time_ms)
    if reason is not None:
        return reason
    if known is not None:
        # It forgot where it belongs, and proved its key and a good token: told again, and no use is spent.
        return done(known.name)
    if len(facts.members) >= MEMBERS_MAX:
        return refused("limit.members", f"the mesh has {MEMBERS_MAX} members")
    name = free_name(facts, member.name, member.node_id)
    facts.invites[invite.token_id] = replace(invite, used_by=(*invite.used_by, member.node_id))
    facts.members[member.node_id] = replace(
        member,
        name=name,
        trusted=invite.trusted,
        may_invite=invite.trusted,
        may_vote=invite.trusted and member.may_vote,
        labels=tuple(sorted({**dict(member.labels), **dict(invite.labels)}.items())),
        status=MemberStatus.ACTIVE,
        joined_ms=context.time_ms,
        seen_alive=False,
        relearn=False,
    )
    if invite.trusted:
        _add_shares(facts, tuple(share for share in entry.shares if share.node_id == member.node_id))
    return done(name)


def invite_refusal(invite: Invite, time_ms: int) -> Result | None:
    """Why this invite admits nobody (more) at this time of the leader's, or None."""
    if invite.voided:
        return refused("invite.voided", "this invite was voided", hint="ask for a new token")
    if time_ms >= invite.expires_ms:
        return refused("invite.expired", "this invite has expired", hint="ask for a new token")
    if len(invite.used_by) >= invite.uses_max:
        uses = "its one use is" if invite.uses_max == 1 else f"its {invite.uses_max} uses are"
        return refused("invite.used-up", "this invite is used up", f"{uses} spent", "ask for a new token")
    return None


def free_name(facts: Facts, wanted: str, node_id: NodeId) -> str:
    """The wanted name, or the first of wanted-2, wanted-3, … that no other member bears; no longer than names are."""
    taken = {other.name for other in facts.members.values() if other.node_id != node_id}
    if wanted not in taken:
        return wanted
    ends = (f"-{number}" for number in range(2, len(taken) + 3))
    numbered = (wanted[: NAME_CHARS_MAX - len(end)].rstrip("-") + end for end in ends)
    return next(name for name in numbered if name not in taken)


def remove_member(facts: Facts, entry: RemoveMember, context: Context) -> Result:
    member = facts.members.get(entry.node_id)
    if member is None:
        return missing(f"no member {entry.node_id}")
    if member.status is MemberStatus.REMOVED:
        return done(member.name)
    remaining = [
        other
        for other in facts.members.values()
        if other.status is not MemberStatus.REMOVED and other.trusted and other.node_id != entry.node_id
    ]
    if not remaining:
        return refused("member.last", f"{member.name} is the last trusted member", hint="use `freecloud down` instead")
    facts.members[entry.node_id] = replace(member, status=MemberStatus.REMOVED)
    facts.outs.pop(entry.node_id, None)
    for invite in list(facts.invites.values()):
        if invite.issuer == entry.node_id:
            facts.invites[invite.token_id] = replace(invite, voided=True)
    for session in [session for session in facts.sessions.values() if session.node_id == entry.node_id]:
        del facts.sessions[session.session_id]
    for key in list(facts.keys.values()):
        shares = tuple(share for share in key.shares if share.node_id != entry.node_id)
        facts.keys[key.purpose, key.generation] = replace(key, shares=shares, retire=True)
    return done(member.name)


def change_member(facts: Facts, entry: ChangeMember, context: Context) -> Result:
    member = facts.active(entry.node_id)
    if member is None:
        return missing(f"no member {entry.node_id}")
    if (entry.may_invite or entry.may_vote) and not member.trusted:
        return refused("member.untrusted", f"{member.name} is not trusted")
    changes: dict[str, object] = {
        name: value
        for name in ("labels", "zone", "may_invite", "may_vote", "away_until_ms", "addresses", "feature_level")
        if (value := getattr(entry, name)) is not None
    }
    if entry.draining is not None:
        changes["status"] = MemberStatus.DRAINING if entry.draining else MemberStatus.ACTIVE
    facts.members[entry.node_id] = replace(member, **changes)  # type: ignore[arg-type]
    return done(member.name)


def register_boot(facts: Facts, entry: RegisterBoot, context: Context) -> Result:
    """Tell a fresh start from a clone, an old copy and a lost disk (rule T3)."""
    member = facts.members.get(entry.node_id)
    if member is None or member.status is MemberStatus.REMOVED:
        return refused("fenced.removed", "this node is not a member of the mesh (any more)")
    if context.proposer != entry.node_id:
        return refused("fenced.foreign", "a node registers its own start only")
    known, new = member.boot, entry.boot
    if new == known:
        return done("same")
    if new.store_id != known.store_id:
        if not entry.new_store:
            return refused("fenced.store", f"{member.name}'s log is not the one the mesh knows")
        facts.members[entry.node_id] = replace(member, boot=new, relearn=True)
        return done("new-store")
    reason = _not_continued(member, entry)
    if reason is not None:
        return reason
    facts.members[entry.node_id] = replace(member, boot=new)
    return done("restarted")


def _not_continued(member: Member, entry: RegisterBoot) -> Result | None:
    """Why this start has not the memory of the one that the ledger names, or None: it goes on from there.

    A counter that is higher proves nothing: whoever starts an old copy often enough gets there.
    """
    known, new = member.boot, entry.boot
    starts = f"start {new.counter}, known is {known.counter}"
    if entry.copied:
        return refused("fenced.old", f"{member.name} comes back from a copy of its home", starts)
    if known in entry.follows:
        return None
    if entry.follows or new.counter < known.counter:
        return refused("fenced.old", f"{member.name} comes back with old state", starts)
    if new.counter == known.counter:
        return refused("fenced.clone", f"{member.name} is running already", "another copy of this home started first")
    return None


def mark_seen(facts: Facts, entry: MarkSeen, context: Context) -> Result:
    for node_id in entry.node_ids:
        member = facts.active(node_id)
        if member is not None:
            facts.members[node_id] = replace(member, seen_alive=True)
    return done()


def mark_relearned(facts: Facts, entry: MarkRelearned, context: Context) -> Result:
    member = facts.active(entry.node_id)
    if member is None:
        return missing(f"no member {entry.node_id}")
    facts.members[entry.node_id] = replace(member, relearn=False)
    return done()


def mark_out(facts: Facts, entry: MarkOut, context: Context) -> Result:
    if facts.active(entry.node_id) is None:
        return missing(f"no member {entry.node_id}")
    facts.outs.setdefault(entry.node_id, Out(entry.node_id, context.time_ms, entry.reason))
    return done()


def mark_back(facts: Facts, entry: MarkBack, context: Context) -> Result:
    facts.outs.pop(entry.node_id, None)
    return done()


def rotate_key(facts: Facts, entry: RotateKey, context: Context) -> Result:
    newest = facts.newest_key(entry.key.purpose)
    expected = 1 if newest is None else newest.generation + 1
    if entry.key.generation != expected:
        return conflict(f"the {entry.key.purpose} key was rotated meanwhile", f"next is generation {expected}")
    strangers = [share.node_id for share in entry.key.shares if not _may_hold_keys(facts.active(share.node_id))]
    if strangers:
        return refused("key.share", "a mesh key is shared with trusted members only", strangers[0])
    facts.keys[entry.key.purpose, expected] = replace(entry.key, created_ms=context.time_ms, retire=False)
    return done(str(expected))


def drop_key(facts: Facts, entry: DropKey, context: Context) -> Result:
    newest = facts.newest_key(entry.purpose)
    if newest is not None and newest.generation == entry.generation:
        return refused("key.newest", "the newest key stays")
    facts.keys.pop((entry.purpose, entry.generation), None)
    return done()


def raise_feature_level(facts: Facts, entry: RaiseFeatureLevel, context: Context) -> Result:
    if facts.mesh is None:
        return missing("no mesh")
    behind = [
        member.name
        for member in facts.members.values()
        if member.status is not MemberStatus.REMOVED and member.feature_level < entry.level
    ]
    if behind:
        return refused("feature.behind", f"not every member knows level {entry.level}", behind[0])
    if entry.level > facts.mesh.feature_level:
        facts.mesh = replace(facts.mesh, feature_level=entry.level)
    return done(str(facts.mesh.feature_level))


def open_epoch(facts: Facts, entry: OpenEpoch, context: Context) -> Result:
    if facts.mesh is None:
        return missing("no mesh")
    if entry.epoch <= facts.mesh.epoch:
        return conflict("that epoch is past", f"the mesh is in epoch {facts.mesh.epoch}")
    facts.mesh = replace(facts.mesh, epoch=entry.epoch)
    return done(str(entry.epoch))


def _may_hold_keys(member: Member | None) -> bool:
    return member is not None and member.trusted


def _add_shares(facts: Facts, shares: tuple[KeyShare, ...]) -> None:
    for share in shares:
        key = facts.keys.get((share.purpose, share.generation))
        if key is not None and all(other.node_id != share.node_id for other in key.shares):
            facts.keys[key.purpose, key.generation] = replace(key, shares=(*key.shares, share))
