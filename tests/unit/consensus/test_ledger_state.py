"""The ledger's state machine: what each entry means, once, and the same on every replica."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.ledger_entries import (
    LEDGER,
    AddInvite,
    Admit,
    Assign,
    CreateMesh,
    Done,
    Entry,
    OpenSession,
    Proposal,
    PutApiToken,
    PutRelease,
    Refused,
    RegisterBoot,
    RemoveApp,
    RemoveMember,
    Result,
    RotateKey,
    ScaleApp,
    SetApp,
    Unassign,
)
from consensus.ledger_state import APPLY, LedgerState
from consensus.records import (
    ApiToken,
    BootMark,
    Invite,
    KeyGeneration,
    KeyShare,
    Member,
    MemberStatus,
    MeshRecord,
    Release,
    ReleaseState,
)
from mesh.errors import UpgradeNeeded
from mesh.names import MeshId, NodeId, node_id_of

NOW = 1_700_000_000_000
HOUR = 3600 * 1000


def member(number: int, name: str = "", counter: int = 1) -> Member:
    key = bytes([number]) * 32
    return Member(
        node_id=node_id_of(key),
        name=name or f"node{number}",
        public_key=key,
        certificate=b"certificate",
        trusted=True,
        may_invite=True,
        may_vote=True,
        zone="z",
        provider="",
        labels=(),
        addresses=("127.0.0.1:6700",),
        status=MemberStatus.ACTIVE,
        boot=BootMark(bytes([number]) * 16, counter, bytes([number]) * 8),
        joined_ms=NOW,
        seen_alive=True,
        feature_level=1,
        away_until_ms=0,
        relearn=False,
    )


class Script:
    """A ledger and a proposer that keeps its session, so that a test reads as what is said and what comes of it."""

    def __init__(self) -> None:
        self.state = LedgerState()
        self.founder = member(1)
        keys = (KeyGeneration("gossip", 1, NOW, (KeyShare("gossip", 1, self.founder.node_id, b"g"),), False),)
        self.session = b""
        self.sequence = 0
        self.time_ms = NOW
        self.say(CreateMesh(MeshRecord(MeshId("m"), 1, 1, NOW), self.founder, keys))
        opened = self.say(OpenSession())
        assert isinstance(opened, Done)
        self.session = bytes.fromhex(opened.detail)

    def say(self, entry: Entry, *, repeat: bool = False, proposer: NodeId | None = None) -> Result:
        if self.session and not repeat:
            self.sequence += 1
        proposal = Proposal(proposer or self.founder.node_id, self.session, self.sequence, self.time_ms, entry)
        return LEDGER.decode(self.state.apply(self.state.applied + 1, 1, LEDGER.encode(proposal)))

    def invite(self, uses: int = 1, token_id: str = "t") -> Result:
        invite = Invite(token_id, b"k" * 32, uses, NOW + HOUR, self.founder.node_id, True, (), (), False)
        return self.say(AddInvite(invite))


def code(result: Result) -> str:
    return result.code if isinstance(result, Refused) else "done"


def test_every_entry_kind_has_its_apply_function() -> None:
    assert set(APPLY) == set(Entry.__args__)


def test_a_one_use_invite_admits_exactly_one_and_answers_its_retry_alike() -> None:
    script = Script()
    script.invite()
    first, second = member(2), member(3)
    assert script.say(Admit("t", first, ())) == Done("node2")
    assert code(script.say(Admit("t", second, ()))) == "invite.used-up"
    assert script.say(Admit("t", first, ())) == Done("node2")
    assert second.node_id not in script.state.members


def test_an_expired_a_voided_and_an_unknown_invite_say_which_they_are() -> None:
    script = Script()
    script.invite(uses=5)
    assert code(script.say(Admit("other", member(2), ()))) == "invite.unknown"
    script.time_ms = NOW + HOUR
    assert code(script.say(Admit("t", member(2), ()))) == "invite.expired"
    script.time_ms = NOW
    script.say(Admit("t", member(2), ()))
    script.say(RemoveMember(member(2).node_id, ""))
    assert code(script.say(Admit("t", member(2), ()))) == "invite.removed"


def test_a_member_that_forgot_where_it_belongs_is_told_again_and_spends_no_use() -> None:
    script = Script()
    script.invite(token_id="first")
    script.say(Admit("first", member(2), ()))
    script.invite(token_id="second")
    assert script.say(Admit("second", member(2, "other"), ())) == Done("node2")
    assert script.state.invites["second"].used_by == ()
    assert script.state.members[member(2).node_id].name == "node2"
    assert script.say(Admit("second", member(3), ())) == Done("node3")
    assert code(script.say(Admit("second", member(2), ()))) == "invite.used-up"


def test_removal_voids_the_members_invites_and_takes_its_key_shares() -> None:
    script = Script()
    script.invite(uses=2)
    second = member(2)
    script.say(Admit("t", second, (KeyShare("gossip", 1, second.node_id, b"s"),)))
    assert len(script.state.keys["gossip", 1].shares) == 2
    script.say(RemoveMember(script.founder.node_id, "retired"))
    assert [share.node_id for share in script.state.keys["gossip", 1].shares] == [second.node_id]
    assert script.state.invites["t"].voided
    assert script.state.keys["gossip", 1].retire


def test_the_last_trusted_member_cannot_be_removed() -> None:
    script = Script()
    assert code(script.say(RemoveMember(script.founder.node_id, ""))) == "member.last"


def test_a_repeated_request_is_answered_and_not_run_again() -> None:
    script = Script()
    token = ApiToken("a", "ci", b"h", ("read",), NOW, 0)
    assert script.say(PutApiToken(token)) == Done("a")
    assert script.say(PutApiToken(token), repeat=True) == Done("a")
    assert code(script.say(PutApiToken(token))) == "conflict"


def test_an_unknown_session_runs_nothing() -> None:
    script = Script()
    script.session = b"12345678"
    assert code(script.invite()) == "session.unknown"
    assert not script.state.invites


@pytest.mark.parametrize(
    ("boot", "new_store", "expected"),
    [
        (BootMark(b"\1" * 16, 1, b"\1" * 8), False, "done"),
        (BootMark(b"\1" * 16, 2, b"n" * 8), False, "done"),
        (BootMark(b"\1" * 16, 1, b"n" * 8), False, "fenced.clone"),
        (BootMark(b"\1" * 16, 0, b"n" * 8), False, "fenced.old"),
        (BootMark(b"\2" * 16, 2, b"n" * 8), False, "fenced.store"),
        (BootMark(b"\2" * 16, 1, b"n" * 8), True, "done"),
    ],
)
def test_a_start_is_told_from_a_clone_an_old_copy_and_a_lost_disk(
    boot: BootMark, new_store: bool, expected: str
) -> None:
    script = Script()
    assert code(script.say(RegisterBoot(script.founder.node_id, boot, new_store))) == expected
    founder = script.state.members[script.founder.node_id]
    assert founder.relearn is (new_store and expected == "done")


KNOWN = BootMark(b"\1" * 16, 1, b"\1" * 8)  # as `member(1)` has it
OTHER = BootMark(b"\1" * 16, 1, b"o" * 8)


@pytest.mark.parametrize(
    ("boot", "follows", "copied", "expected"),
    [
        (BootMark(b"\1" * 16, 2, b"n" * 8), (KNOWN,), False, "done"),
        (BootMark(b"\1" * 16, 9, b"n" * 8), (KNOWN, OTHER), False, "done"),
        (BootMark(b"\1" * 16, 9, b"n" * 8), (OTHER,), False, "fenced.old"),
        (BootMark(b"\1" * 16, 1, b"n" * 8), (OTHER,), False, "fenced.old"),
        (BootMark(b"\1" * 16, 2, b"n" * 8), (KNOWN,), True, "fenced.old"),
        (KNOWN, (OTHER,), True, "done"),
    ],
    ids=["restarted", "after-unregistered-starts", "old-however-often-started", "old-equal", "copied", "said-twice"],
)
def test_a_start_counts_only_if_its_home_remembers_the_one_that_the_ledger_names(
    boot: BootMark, follows: tuple[BootMark, ...], copied: bool, expected: str
) -> None:
    """A higher counter proves nothing: an old copy gets there by being started often enough."""
    script = Script()
    founder = script.founder.node_id
    assert code(script.say(RegisterBoot(founder, boot, False, follows, copied))) == expected
    assert script.state.members[founder].boot == (boot if expected == "done" else KNOWN)


def release(number: int) -> Release:
    return Release("web", number, "b" * 64, 10, b"m", "name: web", NOW, (member(1).node_id,))


def test_a_deploy_on_an_old_view_and_a_change_of_a_newer_release_are_conflicts() -> None:
    script = Script()
    assert script.say(PutRelease(release(1), 3)) == Done("1")
    assert code(script.say(PutRelease(release(1), 3))) == "conflict"
    app = script.state.apps["web"]
    script.say(SetApp(1, replace(app, state=ReleaseState.STABLE)))
    script.say(PutRelease(release(2), 3))
    assert script.state.apps["web"].previous_stable == 1
    assert code(script.say(SetApp(1, app))) == "conflict"


def test_a_replica_is_named_once_and_fenced_by_its_index() -> None:
    script = Script()
    script.say(PutRelease(release(1), 1))
    assert script.say(Assign("web", 1, script.founder.node_id, "first", 1)) == Done("web-1")
    assert code(script.say(Assign("web", 1, script.founder.node_id, "a late plan", 1))) == "conflict"
    index = script.state.assignments["web-1"].index
    assert code(script.say(Unassign("web-1", index + 1, ""))) == "conflict"
    script.say(Unassign("web-1", index, ""))
    assert script.say(Assign("web", 1, script.founder.node_id, "again", 2)) == Done("web-2")


def test_a_plan_never_undoes_a_users_scale() -> None:
    script = Script()
    script.say(PutRelease(release(1), 1))
    old = script.state.apps["web"]
    script.say(ScaleApp("web", 5))
    script.say(SetApp(1, replace(old, state=ReleaseState.STABLE)))
    assert script.state.apps["web"].replicas == 5
    assert script.state.apps["web"].state is ReleaseState.STABLE


def test_an_app_comes_back_under_its_name_only_when_the_old_replicas_are_gone() -> None:
    script = Script()
    script.say(PutRelease(release(1), 1))
    script.say(Assign("web", 1, script.founder.node_id, "x", 1))
    script.say(RemoveApp("web"))
    assert code(script.say(PutRelease(release(1), 1))) == "conflict"
    script.say(Unassign("web-1", script.state.assignments["web-1"].index, ""))
    assert script.say(PutRelease(release(1), 1)) == Done("1")


def test_a_key_generation_is_the_next_one_and_never_shared_with_strangers() -> None:
    script = Script()
    good = KeyGeneration("gossip", 2, 0, (KeyShare("gossip", 2, script.founder.node_id, b"x"),), False)
    assert code(script.say(RotateKey(replace(good, generation=3)))) == "conflict"
    stranger = replace(good, shares=(KeyShare("gossip", 2, member(9).node_id, b"x"),))
    assert code(script.say(RotateKey(stranger))) == "key.share"
    assert script.say(RotateKey(good)) == Done("2")


def test_a_snapshot_restores_to_the_same_digest() -> None:
    script = Script()
    script.invite(uses=3)
    script.say(Admit("t", member(2), ()))
    script.say(PutRelease(release(1), 2))
    script.say(Assign("web", 1, member(2).node_id, "x", 1))
    copy = LedgerState()
    copy.restore(script.state.snapshot())
    assert copy.digest() == script.state.digest()
    assert copy.members == script.state.members


def test_an_entry_of_a_newer_program_stops_instead_of_being_skipped() -> None:
    script = Script()
    before = script.state.digest()
    with pytest.raises(UpgradeNeeded):
        script.state.apply(script.state.applied + 1, 1, b"\x93\xaaledger.new\x01\x90")
    assert script.state.digest() == before
