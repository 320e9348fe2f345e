"""Each planted bug is noticed, by the dialogue that is about it; so these dialogues are known to be able to fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.consensus.raft import planted_bugs as planted
from tests.unit.consensus.raft import test_elections as elections
from tests.unit.consensus.raft import test_log as log
from tests.unit.consensus.raft import test_membership as membership
from tests.unit.consensus.raft import test_reads as reads
from tests.unit.consensus.raft import test_replication as replication

NOTICED_BY: dict[Callable[[planted.Setter], None], Callable[[], None]] = {
    planted.vote_before_the_disk: elections.test_a_vote_is_told_only_after_the_disk_has_it,
    planted.vote_forgotten_within_its_term: elections.test_a_vote_is_never_given_twice_in_a_term,
    planted.vote_counted_before_the_disk: (
        elections.test_votes_are_asked_for_and_the_own_one_counted_only_after_the_disk_has_them
    ),
    planted.acknowledged_before_the_disk: replication.test_an_append_is_acknowledged_after_the_disk_has_it,
    planted.leader_counts_itself_at_once: replication.test_the_leader_counts_itself_only_after_its_own_disk,
    planted.old_term_committed_by_counting: replication.test_an_entry_of_an_older_term_is_not_committed_by_counting,
    planted.reads_before_the_noop: reads.test_no_read_is_answered_before_the_noop_is_committed,
    planted.pre_vote_judged_by_the_senders_term: (
        elections.test_a_pre_vote_is_answered_with_the_term_that_was_asked_about
    ),
    planted.silence_for_an_older_term: elections.test_a_leader_of_an_older_term_is_told,
    planted.read_rounds_without_numbers: reads.test_a_late_answer_to_an_earlier_round_proves_nothing,
    planted.reads_without_a_round: reads.test_a_read_waits_for_a_quorum_that_heard_its_round,
    planted.learner_counted: membership.test_learners_do_not_count,
    planted.one_majority_in_a_joint_change: membership.test_a_joint_entry_needs_both_majorities,
    planted.single_step_change: membership.test_a_majority_may_be_replaced_at_once,
    planted.configuration_acts_from_commit: (
        membership.test_a_configuration_acts_from_append_and_reverts_on_truncation
    ),
    planted.truncation_by_a_short_append: replication.test_an_append_that_is_short_late_or_doubled_cuts_nothing,
    planted.commit_beyond_what_was_verified: replication.test_only_what_the_message_verified_is_committed,
    planted.compacted_term_is_zero: replication.test_what_does_not_fit_is_refused_with_a_hint,
    planted.stale_write_makes_the_log_stable: (
        log.test_a_write_that_was_overtaken_by_a_truncation_makes_nothing_stable
    ),
}


def test_every_planted_bug_has_a_dialogue() -> None:
    assert set(NOTICED_BY) == set(planted.PLANTED)


@pytest.mark.parametrize("bug", planted.PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_noticed(bug: Callable[[planted.Setter], None], monkeypatch: pytest.MonkeyPatch) -> None:
    dialogue = NOTICED_BY[bug]
    dialogue()
    bug(monkeypatch.setattr)
    with pytest.raises(AssertionError):
        dialogue()
