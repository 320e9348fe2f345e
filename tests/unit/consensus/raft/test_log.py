"""The log view and the arithmetic of quorums: tables and small cases."""

from __future__ import annotations

import pytest

from consensus.raft import quorum
from consensus.raft.log_view import LogView
from consensus.raft.messages import Configuration, SnapshotMeta, configuration_of
from consensus.raft.quorum import VoteResult
from tests.unit.consensus.raft.dialogue import entry, name, names

THREE = configuration_of(names(1, 2, 3))
START = SnapshotMeta(0, 0, THREE)


def log_of(*terms: int, snapshot: SnapshotMeta = START, first: int = 1, applied: int = 0) -> LogView:
    return LogView(snapshot, [entry(first + at, term) for at, term in enumerate(terms)], applied)


@pytest.mark.parametrize(
    ("voters", "outgoing", "match", "committed"),
    [
        ((), (), {}, 0),
        ((1,), (), {1: 7}, 7),
        ((1, 2), (), {1: 7, 2: 3}, 3),
        ((1, 2, 3), (), {1: 7, 2: 3, 3: 5}, 5),
        ((1, 2, 3, 4), (), {1: 7, 2: 3, 3: 5, 4: 6}, 5),
        ((1, 2, 3), (3, 4, 5), {1: 9, 2: 9, 3: 9}, 0),  # the other half has nothing
        ((1, 2, 3), (3, 4, 5), {1: 9, 2: 9, 3: 9, 4: 4}, 4),
        ((1, 2, 3), (), {4: 9, 5: 9, 1: 2, 2: 1}, 1),  # who is no voter does not count
    ],
)
def test_what_a_quorum_has_is_committed(
    voters: tuple[int, ...], outgoing: tuple[int, ...], match: dict[int, int], committed: int
) -> None:
    """Pitfalls 13 and 15."""
    configuration = Configuration(names(*voters), names(*outgoing), names(4, 5) - names(*outgoing))
    found = quorum.committed_index(configuration, lambda node_id: match.get(int(node_id[1:]), 0))
    assert found == committed


@pytest.mark.parametrize(
    ("voters", "outgoing", "granted", "refused", "result"),
    [
        ((1, 2, 3), (), (1,), (), VoteResult.PENDING),
        ((1, 2, 3), (), (1, 2), (), VoteResult.WON),
        ((1, 2, 3), (), (1,), (2, 3), VoteResult.LOST),
        ((1, 2, 3, 4), (), (1, 2), (), VoteResult.PENDING),
        ((1, 2, 3, 4), (), (1, 2), (3, 4), VoteResult.LOST),
        ((1, 2, 3), (), (1, 4, 5), (), VoteResult.PENDING),
        ((1, 2, 3), (3, 4, 5), (1, 2, 3), (), VoteResult.PENDING),
        ((1, 2, 3), (3, 4, 5), (1, 2, 4, 5), (), VoteResult.WON),
        ((1, 2, 3), (3, 4, 5), (1, 2, 3), (4, 5), VoteResult.LOST),
    ],
)
def test_a_vote_needs_each_majority(
    voters: tuple[int, ...],
    outgoing: tuple[int, ...],
    granted: tuple[int, ...],
    refused: tuple[int, ...],
    result: VoteResult,
) -> None:
    """Pitfall 13."""
    votes = {name(number): True for number in granted} | {name(number): False for number in refused}
    assert quorum.vote_result(Configuration(names(*voters), names(*outgoing), frozenset()), votes) is result


def test_the_term_of_a_compacted_entry_is_unknown_and_not_zero() -> None:
    """Pitfall 21."""
    log = log_of(4, 4, 5, snapshot=SnapshotMeta(7, 4, THREE), first=6)
    assert [log.term_at(index) for index in (0, 4, 5, 6, 7, 8, 9)] == [None, None, None, 4, 4, 5, None]
    assert log_of(1).term_at(0) == 0


def test_the_term_just_before_a_compacted_log_is_kept() -> None:
    log = log_of(1, 2, 3, 3, applied=3)
    assert log.compact(SnapshotMeta(3, 3, THREE), keep_entries=1, keep_bytes=1000) == 2
    assert [log.term_at(index) for index in (1, 2, 3, 4)] == [None, 2, 3, 3]


def test_compaction_keeps_a_tail_bounded_by_entries_and_bytes() -> None:
    size = entry(1, 1).size_bytes()
    assert log_of(1, 1, 1, 1, applied=4).compact(SnapshotMeta(4, 1, THREE), keep_entries=3, keep_bytes=10**6) == 1
    assert log_of(1, 1, 1, 1, applied=4).compact(SnapshotMeta(4, 1, THREE), keep_entries=9, keep_bytes=2 * size) == 2


def test_a_write_that_was_overtaken_by_a_truncation_makes_nothing_stable() -> None:
    """Pitfall 26: entry 2 of term 1 is being written when entry 2 of term 2 takes its place."""
    log = log_of(1)
    log.append([entry(2, 1), entry(3, 1)])
    log.take_unstable()
    log.truncate_from(2)
    log.append([entry(2, 2)])
    log.stabilized()
    assert log.stable == 1
    assert log.take_unstable() == (None, 2, (entry(2, 2),))
    log.stabilized()
    assert (log.stable, log.is_dirty) == (2, False)


def test_a_committed_entry_is_never_cut() -> None:
    """Pitfall 19."""
    log = log_of(1, 1, 1)
    log.commit_to(2)
    with pytest.raises(AssertionError, match="is committed"):
        log.truncate_from(2)
    assert log.last_index == 3


def test_the_commit_index_never_falls() -> None:
    """Pitfall 20."""
    log = log_of(1, 1, 1)
    assert log.commit_to(2) and not log.commit_to(1)
    assert log.commit == 2


def test_what_is_committed_and_not_durable_here_is_not_applied() -> None:
    log = log_of(1)
    log.append([entry(2, 1)])
    log.commit_to(2)
    assert log.take_committed() == (entry(1, 1),)
    log.take_unstable()
    log.stabilized()
    assert log.take_committed() == (entry(2, 1),)
    assert log.take_committed() == ()


def test_a_recovered_log_that_a_snapshot_replaced_is_thrown_away() -> None:
    """Pitfall 22: the crash came between the snapshot's rename and the log's reset."""
    snapshot = SnapshotMeta(9, 3, THREE)
    for terms, first in [((1, 1, 1), 1), ((1, 1), 9)]:
        log = log_of(*terms, snapshot=snapshot, first=first)
        assert (log.first_index, log.last_index, log.last_term) == (10, 9, 3)
        assert log.take_unstable() == (snapshot, None, ())


def test_a_recovered_log_with_a_hole_is_refused() -> None:
    with pytest.raises(AssertionError, match="missing"):
        log_of(1, snapshot=SnapshotMeta(3, 1, THREE), first=6)
    with pytest.raises(AssertionError, match="gap"):
        LogView(START, [entry(1, 1), entry(3, 1)], 0)


def test_a_snapshot_that_the_log_agrees_with_keeps_the_tail() -> None:
    log = log_of(1, 1, 2, 2)
    log.restore(SnapshotMeta(3, 2, THREE))
    assert (log.last_index, log.commit, log.applied, log.is_dirty) == (4, 3, 3, False)
    other = log_of(1, 1, 1, 1)
    other.restore(SnapshotMeta(3, 2, THREE))
    assert (other.first_index, other.last_index, other.is_dirty) == (4, 3, True)


@pytest.mark.parametrize(
    ("ours", "index", "term", "hint"),
    [
        ((1, 1, 1, 4, 4), 5, 3, (3, 1)),
        ((1, 1, 1, 4, 4), 9, 4, (5, 4)),
        ((2, 2, 2), 3, 1, (0, 0)),
        ((), 4, 4, (0, 0)),
    ],
)
def test_a_run_of_one_term_is_skipped_in_one_message(
    ours: tuple[int, ...], index: int, term: int, hint: tuple[int, int]
) -> None:
    assert log_of(*ours).agreement_hint(index, term) == hint
