"""Whom an observer asks, when, and what it makes of answers."""

from __future__ import annotations

import random

import pytest

from consensus.group_serving import OutgoingSnapshot, check_asker, pull_answer
from consensus.log_mirror import LogMirror
from consensus.pull import (
    ANSWER_S,
    PIECE_BYTES,
    WAIT_S,
    Piece,
    PieceRequest,
    Pull,
    PullAnswer,
    PulledSnapshot,
    Puller,
    PullRequest,
)
from consensus.raft.messages import EntryKind, LogEntry, SnapshotMeta, configuration_of
from mesh.errors import RefusedError
from mesh.names import MeshId, NodeId

MESH = MeshId("m")
NOBODY = configuration_of(frozenset())
A, B = NodeId("a"), NodeId("b")
META = SnapshotMeta(9, 1, NOBODY)


def answer(*, use_snapshot: bool = False) -> PullAnswer:
    return PullAnswer(1, 5, A, 1, NOBODY, 0, (), use_snapshot)


def asked(puller: Puller, now: float) -> Pull:
    puller.tick(now)
    pull = puller.take()
    assert pull is not None
    return pull


def running(*sources: NodeId) -> Puller:
    puller = Puller(MESH, 0, 1, position=lambda: (4, 1), rng=random.Random(1))
    puller.set_sources(sources, 0.0)
    puller.start(0.0)
    return puller


def test_one_question_at_a_time_and_the_next_after_its_answer_was_used() -> None:
    puller = running(A)
    pull = asked(puller, 0.0)
    assert pull.request == PullRequest(MESH, 0, 1, 4, 1, int(WAIT_S * 1000))
    puller.tick(0.1)
    assert puller.take() is None
    assert puller.answered(0.2, pull.number, answer()) is not None
    puller.tick(0.3)
    assert puller.take() is None
    puller.go_on(0.3)
    assert asked(puller, 0.3).to == A


def test_whoever_does_not_answer_is_asked_last() -> None:
    puller = running(A, B)
    first = asked(puller, 0.0)
    late = WAIT_S + ANSWER_S
    puller.tick(late)
    second = asked(puller, late + 1)
    assert second.to != first.to
    assert puller.answered(late + 1, first.number, answer()) is None


def test_a_peer_that_went_away_is_not_waited_for() -> None:
    puller = running(A, B)
    first = asked(puller, 0.0)
    puller.set_sources([B if first.to == A else A], 1.0)
    assert asked(puller, 1.5).to != first.to


def test_a_snapshot_is_fetched_piece_by_piece() -> None:
    puller = running(A)
    payload = random.Random(1).randbytes(2 * PIECE_BYTES + 5)
    outgoing = OutgoingSnapshot(lambda: (META, payload))
    assert puller.answered(0.0, asked(puller, 0.0).number, answer(use_snapshot=True)) is not None
    taken: object = None
    for _ in range(3):
        pull = asked(puller, 0.0)
        assert isinstance(pull.request, PieceRequest)
        piece = outgoing.piece(pull.request.index, pull.request.offset, at_least=0, now=0.0)
        taken = puller.answered(0.0, pull.number, piece)
    assert taken == PulledSnapshot(META, payload)


def test_a_piece_of_another_snapshot_begins_anew() -> None:
    puller = running(A)
    puller.answered(0.0, asked(puller, 0.0).number, answer(use_snapshot=True))
    puller.answered(0.0, asked(puller, 0.0).number, Piece(META, 0, b"x" * 10, done=False))
    other = Piece(SnapshotMeta(12, 1, NOBODY), 10, b"y", done=True)
    assert puller.answered(0.0, asked(puller, 0.0).number, other) is None
    assert isinstance(asked(puller, 0.0).request, PullRequest)


def test_a_replica_that_looks_around_asks_everyone_in_turn() -> None:
    puller = running(A, B)
    puller.stop()
    puller.start(0.0, patient=False)
    seen = set()
    now = 0.0
    for _ in range(4):
        pull = asked(puller, now)
        seen.add(pull.to)
        puller.answered(now, pull.number, answer())
        puller.go_on(now)
        now += 2
    assert seen == {A, B}


# --- serving --------------------------------------------------------------------------------------------------


def mirror(base: int, last: int) -> LogMirror:
    entries = [LogEntry(index, 1 + index // 5, EntryKind.NORMAL, b"x") for index in range(base + 1, last + 1)]
    return LogMirror(base, entries, SnapshotMeta(base, 1 + base // 5 if base else 0, NOBODY))


def serve(after: int, term: int, *, base: int = 0, applied: int = 8, epoch: int = 1, theirs: int = 1) -> PullAnswer:
    request = PullRequest(MESH, 0, theirs, after, term, 0)
    return pull_answer(request, mirror(base, 10), applied=applied, epoch=epoch, leader=A, term=3, age_s=1.0)


def test_only_what_is_committed_is_given() -> None:
    assert [entry.index for entry in serve(5, 2).entries] == [6, 7, 8]
    assert serve(8, 2).entries == ()
    assert serve(9, 2).entries == ()


def test_what_is_compacted_is_given_as_a_snapshot() -> None:
    assert serve(3, 1, base=6).use_snapshot
    assert not serve(6, 2, base=6).use_snapshot


def test_another_history_is_refused() -> None:
    with pytest.raises(RefusedError, match="history"):
        serve(5, 1)
    with pytest.raises(RefusedError, match="never agreed on"):
        serve(9, 2, epoch=2, theirs=1)


def test_another_mesh_and_a_later_epoch_are_refused() -> None:
    with pytest.raises(RefusedError, match="another mesh"):
        check_asker(PullRequest(MeshId("x"), 0, 1, 0, 0, 0), MESH, 1)
    with pytest.raises(RefusedError, match="not heard of that epoch"):
        check_asker(PullRequest(MESH, 0, 2, 0, 0, 0), MESH, 1)
