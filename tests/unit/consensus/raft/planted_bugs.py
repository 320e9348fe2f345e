"""Known mistakes of Raft implementations, planted one at a time: each must be noticed by an oracle of `cluster`.

A patch is a function of a setter (`monkeypatch.setattr`); the product knows nothing of any of them. The numbers are
those of the pitfalls in the page on faults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consensus.raft import following, quorum
from consensus.raft.core import Core
from consensus.raft.election import Election
from consensus.raft.log_view import LogView
from consensus.raft.membership import Membership
from consensus.raft.messages import Appended, Configuration, PreVoteReply
from consensus.raft.quorum import VoteResult
from consensus.raft.reads import Reads
from consensus.raft.replication import Replication
from consensus.raft.roles import Roles
from consensus.raft.writes import Writes

Setter = Callable[[object, str, Any], None]


def vote_before_the_disk(setattr_: Setter) -> None:
    """1: the vote is told before it is durable."""
    original = Election.answer_vote

    def answer_vote(self: Election, sender: Any, request: Any) -> None:
        core = self._core
        waiting = len(core.after_persist)
        original(self, sender, request)
        core.to_send.extend(core.after_persist[waiting:])
        del core.after_persist[waiting:]

    setattr_(Election, "answer_vote", answer_vote)


def vote_forgotten_within_its_term(setattr_: Setter) -> None:
    """1: giving up a candidacy resets the vote."""
    original = Election.start_pre_vote

    def start_pre_vote(self: Election) -> VoteResult:
        self._core.vote = None
        return original(self)

    setattr_(Election, "start_pre_vote", start_pre_vote)


def acknowledged_before_the_disk(setattr_: Setter) -> None:
    """2: a follower acknowledges what is only in its memory."""
    original = following.receive_append

    def receive_append(core: Core, leader: Any, append: Any) -> None:
        waiting = len(core.after_persist)
        original(core, leader, append)
        core.to_send.extend(core.after_persist[waiting:])
        del core.after_persist[waiting:]

    setattr_(following, "receive_append", receive_append)


def leader_counts_itself_at_once(setattr_: Setter) -> None:
    """2: the leader counts entries that its own disk does not have."""
    original = Replication.match_of

    def match_of(self: Replication, node_id: Any) -> int:
        return self._core.log.last_index if node_id == self._core.me else original(self, node_id)

    setattr_(Replication, "match_of", match_of)


def old_term_committed_by_counting(setattr_: Setter) -> None:
    """3: thesis figure 3.7."""

    def advance_commit(self: Replication) -> bool:
        core = self._core
        index = quorum.committed_index(core.configuration, self.match_of)
        before = core.log.commit
        if index <= before:
            return False
        core.log.commit_to(index)
        self.uncommitted_bytes -= core.log.size_bytes(before + 1, index)
        return True

    setattr_(Replication, "advance_commit", advance_commit)


def reads_before_the_noop(setattr_: Setter) -> None:
    """4: a new leader reads at a commit index that it inherited."""
    original = Reads.start_round

    def start_round(self: Reads, *, ready: bool) -> bool:
        return original(self, ready=True)

    setattr_(Reads, "start_round", start_round)


def pre_vote_judged_by_the_senders_term(setattr_: Setter) -> None:
    """5: a granted pre-vote of a replica in an older term is dropped."""
    original = Roles._receive_pre_vote_reply

    def receive(self: Roles, envelope: Any, reply: PreVoteReply) -> None:
        if envelope.term >= self._core.term:
            original(self, envelope, reply)

    setattr_(Roles, "_receive_pre_vote_reply", receive)


def silence_for_an_older_term(setattr_: Setter) -> None:
    """7: a leader of an older term is not told."""
    setattr_(Roles, "_answer_old_term", lambda self, sender, body: None)


def read_rounds_without_numbers(setattr_: Setter) -> None:
    """10: a late acknowledgement of an earlier round finishes a later one."""

    def acknowledge(self: Reads, sender: Any, round_number: int) -> None:
        self._acknowledged[sender] = self.round
        self.check_round()

    setattr_(Reads, "acknowledge", acknowledge)


def reads_without_a_round(setattr_: Setter) -> None:
    """10: the leader believes that it still leads."""

    def check_round(self: Reads) -> None:
        finished, self._in_round = self._in_round, []
        for read in finished:
            self._answer(read, self._round_index)

    setattr_(Reads, "check_round", check_round)


def learner_counted(setattr_: Setter) -> None:
    """13: learners are counted in quorums."""
    original = quorum._joint_value

    def joint_value(configuration: Configuration, value: Any) -> float:
        return original(
            Configuration(
                configuration.voters | configuration.learners, configuration.voters_outgoing, configuration.learners
            ),
            value,
        )

    setattr_(quorum, "_joint_value", joint_value)


def one_majority_in_a_joint_change(setattr_: Setter) -> None:
    """13: only the new half decides."""
    original_value, original_vote = quorum._joint_value, quorum.vote_result

    def new_half(configuration: Configuration) -> Configuration:
        return Configuration(configuration.voters, frozenset(), configuration.learners)

    setattr_(quorum, "_joint_value", lambda configuration, value: original_value(new_half(configuration), value))
    setattr_(quorum, "vote_result", lambda configuration, votes: original_vote(new_half(configuration), votes))


def single_step_change(setattr_: Setter) -> None:
    """13: no joint configuration at all, and several voters may change at once."""
    from consensus.raft import leadership

    original = leadership.next_configuration

    def next_configuration(current: Configuration, voters: Any, learners: Any, **checks: Any) -> Configuration | str:
        wanted = original(current, voters, learners, **checks)
        return wanted if isinstance(wanted, str) else Configuration(wanted.voters, frozenset(), wanted.learners)

    setattr_(leadership, "next_configuration", next_configuration)


def configuration_acts_from_commit(setattr_: Setter) -> None:
    """14: peers and quorums follow the committed configuration, not the appended one."""
    setattr_(Membership, "current", property(lambda self: self.at(max(self._log.commit, self._history[0][0]))))


def truncation_by_a_short_append(setattr_: Setter) -> None:
    """19: whatever is behind an Append is cut."""
    original = following.receive_append

    def receive_append(core: Core, leader: Any, append: Any) -> None:
        end = append.prev_index + len(append.entries)
        if append.prev_index >= core.log.commit and core.log.commit < end < core.log.last_index:
            core.truncate_from(end + 1)
        original(core, leader, append)

    setattr_(following, "receive_append", receive_append)


def commit_beyond_what_was_verified(setattr_: Setter) -> None:
    """20: the follower commits up to the leader's index whatever it holds there."""
    original = following.receive_append

    def receive_append(core: Core, leader: Any, append: Any) -> None:
        original(core, leader, append)
        core.log.commit_to(min(append.commit, core.log.last_index))

    setattr_(following, "receive_append", receive_append)


def compacted_term_is_zero(setattr_: Setter) -> None:
    """21: an unknown term matches; so does any previous entry that is gone."""
    original = following.receive_append

    def receive_append(core: Core, leader: Any, append: Any) -> None:
        if core.log.term_at(append.prev_index) is None and append.prev_index > core.log.last_index:
            core.send_after_persist(leader, Appended(append.prev_index + len(append.entries)))
            return
        original(core, leader, append)

    setattr_(following, "receive_append", receive_append)


def stale_write_makes_the_log_stable(setattr_: Setter) -> None:
    """26: a completion counts although the log was cut meanwhile."""
    original = LogView.truncate_from

    def truncate_from(self: LogView, index: int) -> None:
        persisting_to = self._persisting_to
        original(self, index)
        self._persisting_to = persisting_to

    setattr_(LogView, "truncate_from", truncate_from)

    def stabilized(self: LogView) -> None:
        self.stable = min(self.last_index, max(self.stable, self._persisting_to))

    setattr_(LogView, "stabilized", stabilized)


def vote_counted_before_the_disk(setattr_: Setter) -> None:
    """1: a candidate asks for votes and counts its own before its term is durable."""
    original = Writes.take

    def take(self: Writes) -> Any:
        persist, after = original(self)
        self._core.to_send.extend(after)
        return persist, ()

    setattr_(Writes, "take", take)


PLANTED: tuple[Callable[[Setter], None], ...] = (
    vote_before_the_disk,
    vote_forgotten_within_its_term,
    vote_counted_before_the_disk,
    acknowledged_before_the_disk,
    leader_counts_itself_at_once,
    old_term_committed_by_counting,
    reads_before_the_noop,
    pre_vote_judged_by_the_senders_term,
    silence_for_an_older_term,
    read_rounds_without_numbers,
    reads_without_a_round,
    learner_counted,
    one_majority_in_a_joint_change,
    single_step_change,
    configuration_acts_from_commit,
    truncation_by_a_short_append,
    commit_beyond_what_was_verified,
    compacted_term_is_zero,
    stale_write_makes_the_log_stable,
)
