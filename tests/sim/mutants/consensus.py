"""Planted bugs of consensus and its host: 1 to 18 of the faults page as far as their code exists, and some of our own.

Not here: 5 (an answer about another term is made good by the refusals, which carry the term that a stale voter
lacks); and, because there is nothing to break yet: 12 (no state store beside the snapshots), 15 (no sleeping groups),
17 (one group).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from consensus import apply_members, ledger_state
from consensus.group_replica import Replica
from consensus.ledger_facts import Facts
from consensus.ledger_state import LedgerState
from consensus.log_store import LogStore
from consensus.raft import following, quorum
from consensus.raft.core import Core
from consensus.raft.fences import Fences
from consensus.raft.leadership import Leadership
from consensus.raft.log_view import LogView
from consensus.raft.messages import (
    Append,
    Appended,
    Configuration,
)
from consensus.raft.outputs import LeaderReady, ReadReady
from consensus.raft.reads import Reads
from consensus.raft.replication import Replication
from consensus.segments import SegmentCipher
from mesh.errors import DiskError
from mesh.names import NodeId
from tests.sim.mutants.mutant import Mutant, replacing
from tests.sim.options import Options

Made = Callable[..., Any]

CRASHES = ("crash", "crash_at_effect", "power_loss")
CUTS = ("flapping", "one_way_cut", "partial_cut", "partition")


def _short_reigns(options: Options) -> Options:
    """Figure 8: three nodes, leaders that die within milliseconds, entries that travel one by one and get lost."""
    return replace(
        options,
        nodes=3,
        voters=3,
        faults=("leader_crash",),
        fault_gap_s=1.0,
        outage_s=0.4,
        safety_s=2.0 * options.safety_s,
        network=replace(options.network, loss=0.25, delay_mean_s=0.02),
        constants=replace(options.constants, batch_entries_max=1, inflight_max=1),
    )


def _late_answers(options: Options) -> Options:
    """Answers come late to leaders that nobody hears any more, and there are many reads."""
    return replace(options, faults=("clog",), fault_gap_s=1.5, think_s=0.05, clients=5, safety_s=1.5 * options.safety_s)


def _sets_exchanged_under_cuts(options: Options) -> Options:
    """Many nodes whose voters are exchanged again and again while the mesh falls apart."""
    return replace(
        options,
        nodes=7,
        voters=3,
        faults=("flapping", "one_way_cut", "partition"),
        fault_gap_s=2.0,
        outage_s=2.0,
        think_s=0.08,
        safety_s=2.0 * options.safety_s,
        workloads=("reconfiguration", "registers"),
    )


def _disks_fail_then_power(options: Options) -> Options:
    """Storage that fails under all at once, and the power next."""
    return replace(
        options, faults=("fsync_fails",), fault_gap_s=1.5, think_s=0.05, clients=5, safety_s=2.0 * options.safety_s
    )


# --- 1, 2: what is said before the disk has it ---------------------------------------------------------------------


def _vote_not_written(original: Made) -> Made:
    def queue_write(self: Replica, output: Any) -> None:
        if output.persist is not None:
            output = replace(output, persist=replace(output.persist, hard_state=None))
        original(self, output)

    return queue_write


def _append_acknowledged_at_once(original: Made) -> Made:
    def send_after_persist(self: Core, to: NodeId, body: Any) -> None:
        if isinstance(body, Appended):
            self.send(to, body)
        else:
            original(self, to, body)

    return send_after_persist


# --- 3, 4, 7, 8, 14: what is committed -----------------------------------------------------------------------------


def _old_term_committed_by_counting(original: Made) -> Made:
    def advance_commit(self: Replication) -> bool:
        core = self._core
        index = quorum.committed_index(core.configuration, self.match_of)
        before = core.log.commit
        if index <= before:
            return False
        core.log.commit_to(index)
        self.uncommitted_bytes -= core.log.size_bytes(before + 1, index)
        return True

    return advance_commit


def _ready_without_noop(original: Made) -> Made:
    def init(self: Leadership, core: Core, reads: Reads) -> None:
        original(self, core, reads)
        self.ready = True
        core.emit(LeaderReady(core.term, self._noop_index))

    return init


def _learners_in_quorum(original: Made) -> Made:
    def committed_index(configuration: Configuration, match: Callable[[NodeId], int]) -> int:
        everyone = configuration.voters | configuration.learners
        counted: int = original(Configuration(everyone, frozenset(), frozenset()), match)
        return counted

    return committed_index


def _one_majority_of_a_joint_change(original: Made) -> Made:
    def decide(configuration: Configuration, answers: Any) -> Any:
        return original(Configuration(configuration.voters, frozenset(), configuration.learners), answers)

    return decide


@contextmanager
def _plant_one_majority() -> Iterator[None]:
    with ExitStack() as stack:
        for name in ("committed_index", "vote_result", "quorum_time"):
            made = _one_majority_of_a_joint_change(getattr(quorum, name))
            stack.enter_context(patch.object(quorum, name, made))
        yield


@contextmanager
def _plant_removed_peers_count() -> Iterator[None]:
    def sync_peers(self: Replication) -> None:
        core = self._core
        wanted = [node_id for node_id in core.members.everyone if node_id != core.me]
        for node_id in wanted:
            if node_id not in self.peers:
                self.peers[node_id] = self._new_peer(node_id)

    def match_of_best(self: Replication) -> bool:
        core = self._core
        needed: int = len(core.configuration.voters) // 2 + 1
        matches = sorted([core.log.stable, *(peer.match for peer in self.peers.values())], reverse=True)
        index: int = matches[needed - 1] if len(matches) >= needed else 0
        before = core.log.commit
        if index <= before or core.log.term_at(index) != core.term:
            return False
        core.log.commit_to(index)
        self.uncommitted_bytes -= core.log.size_bytes(before + 1, index)
        return True

    def hear_anyone(original: Made) -> Made:
        def admits(self: Fences, envelope: Any) -> bool:
            return bool(envelope.group == self._core.group and envelope.epoch == self._core.epoch)

        return admits

    with (
        patch.object(Replication, "sync_peers", sync_peers),
        patch.object(Replication, "advance_commit", match_of_best),
        patch.object(Fences, "admits", hear_anyone(Fences.admits)),
    ):
        yield


# --- 5, 6, 13: elections and reads ---------------------------------------------------------------------------------


def _lease_from_receive_time(original: Made) -> Made:
    def ask(self: Reads, token: int) -> None:
        core = self._core
        if core.is_leader and core.log.term_at(core.log.commit) == core.term:
            core.answers.append(ReadReady(token, core.log.applied))  # CheckQuorum has not thrown us out: a lease
        else:
            original(self, token)

    return ask


def _any_round_acknowledges(original: Made) -> Made:
    def acknowledge(self: Reads, sender: NodeId, round_number: int) -> None:
        original(self, sender, self.round if round_number else 0)

    return acknowledge


# --- 9, 10: the follower's log -------------------------------------------------------------------------------------


def _truncate_on_short_append(original: Made) -> Made:
    def receive_append(core: Core, leader: NodeId, append: Append) -> None:
        original(core, leader, append)
        verified = append.prev_index + len(append.entries)
        if (
            core.log.commit <= verified < core.log.last_index
            and core.log.term_at(append.prev_index) == append.prev_term
        ):
            core.truncate_from(verified + 1)

    return receive_append


def _compacted_term_is_zero(original: Made) -> Made:
    def term_at(self: LogView, index: int) -> int | None:
        found: int | None = original(self, index)
        return 0 if found is None and 0 < index <= self._base else found

    return term_at


@contextmanager
def _plant_compacted_term() -> Iterator[None]:
    # Both ends take the unknown for a 0: the leader sends it on, the follower finds that it matches.
    def send_append(self: Replication, peer: Any) -> bool:
        core = self._core
        previous = peer.next_index - 1
        term = core.log.term_at(previous)
        if term == 0 and previous > 0 and core.log.first_index <= core.log.last_index:
            peer.next_index = core.log.first_index
            entries = core.log.batch(peer.next_index, entries_max=8, bytes_max=4096)
            core.send(peer.node_id, Append(peer.next_index - 1, 0, core.log.commit, entries))
            return True
        sent: bool = original_send(self, peer)
        return sent

    original_send = Replication._send_append
    with (
        patch.object(LogView, "term_at", _compacted_term_is_zero(LogView.term_at)),
        patch.object(Replication, "_send_append", send_append),
    ):
        yield


# --- 11, 27 and sessions: the ledger -------------------------------------------------------------------------------


def _snapshot_without_sessions(original: Made) -> Made:
    def to_snapshot(facts: Facts, applied: int) -> Any:
        return replace(original(facts, applied), sessions=())

    return to_snapshot


def _no_memory_of_results(original: Made) -> Made:
    def apply_once(self: LedgerState, proposal: Any, context: Any) -> Any:
        session = self._facts.sessions.get(proposal.session_id)
        if session is not None and proposal.sequence == session.sequence and session.result:
            return self._run(proposal.entry, context)
        return original(self, proposal, context)

    return apply_once


def _uses_not_counted_in_apply(original: Made) -> Made:
    def invite_refusal(invite: Any, time_ms: int) -> Any:
        return original(replace(invite, used_by=()), time_ms)

    return invite_refusal


# --- 16, 18: the log store -----------------------------------------------------------------------------------------


@contextmanager
def _plant_fsync_tried_again() -> Iterator[None]:
    # The nonce's counter has moved on: what is on the disk is the first sealing, so that must be kept.
    def write_unit(self: LogStore, records: Any) -> None:
        assert self._file is not None
        unit, chain = self._cipher.seal_unit(records, self._end, self._chain)
        self._disk.pwrite(self._file, self._end, unit)
        try:
            self._disk.fsync(self._file)
        except DiskError:
            self._disk.fsync(self._file)  # "it worked the second time"
        self._end += len(unit)
        self._chain = chain

    with patch.object(LogStore, "_write_unit", write_unit):
        yield


def _rot_taken_for_a_torn_tail(original: Made) -> Made:
    def refuse_rot(self: SegmentCipher, raw: bytes, hole: int) -> None:
        return None

    return refuse_rot


# --- some of our own -----------------------------------------------------------------------------------------------


@contextmanager
def _plant_amnesiac_votes() -> Iterator[None]:
    with (
        patch.object(Replica, "_may_vote", lambda self: True),
        patch.object(Fences, "is_foreign", lambda self, mark: False),
    ):
        yield


def _vote_whatever_the_log(original: Made) -> Made:
    def is_up_to_date(self: LogView, last_index: int, last_term: int) -> bool:
        return True

    return is_up_to_date


MUTANTS: tuple[Mutant, ...] = (
    Mutant(1, "vote not fsynced", replacing(Replica, "_queue_write", _vote_not_written), (*CRASHES, *CUTS)),
    Mutant(
        2,
        "append acknowledged before fsync",
        replacing(Core, "send_after_persist", _append_acknowledged_at_once),
        ("power_loss", "disk_stall", "partition"),
    ),
    Mutant(
        3,
        "old-term entry committed by counting",
        replacing(Replication, "advance_commit", _old_term_committed_by_counting),
        adjust=_short_reigns,
    ),
    Mutant(4, "no-op skipped", replacing(Leadership, "__init__", _ready_without_noop), (*CRASHES, *CUTS)),
    Mutant(6, "lease from receive time", replacing(Reads, "ask", _lease_from_receive_time), (*CUTS, "pause")),
    Mutant(
        7,
        "learner counted in quorum",
        replacing(quorum, "committed_index", _learners_in_quorum),
        CRASHES,
        ("membership", "reconfiguration"),
    ),
    Mutant(8, "joint change with one majority", _plant_one_majority, adjust=_sets_exchanged_under_cuts),
    Mutant(9, "truncate on short append", replacing(following, "receive_append", _truncate_on_short_append), CRASHES),
    Mutant(10, "term of a compacted index is 0", _plant_compacted_term, CRASHES),
    Mutant(
        11,
        "snapshot without sessions",
        replacing(ledger_state, "to_snapshot", _snapshot_without_sessions),
        CRASHES,
    ),
    Mutant(
        13,
        "read round acknowledged by any answer",
        replacing(Reads, "acknowledge", _any_round_acknowledges),
        adjust=_late_answers,
    ),
    Mutant(
        14,
        "removed peer's acknowledgement counts",
        _plant_removed_peers_count,
        CRASHES,
        ("membership", "reconfiguration"),
    ),
    Mutant(16, "fsync error retried", _plant_fsync_tried_again, adjust=_disks_fail_then_power),
    Mutant(
        18,
        "torn-tail rule applied mid-log",
        replacing(SegmentCipher, "_refuse_rot", _rot_taken_for_a_torn_tail),
        ("rot",),
    ),
    Mutant(
        27,
        "invite use checked outside apply",
        replacing(apply_members, "invite_refusal", _uses_not_counted_in_apply),
        (),
        ("invites",),
    ),
    Mutant(102, "a new store votes at once", _plant_amnesiac_votes, ("lost_disk", *CRASHES)),
    Mutant(103, "vote for any log", replacing(LogView, "is_up_to_date", _vote_whatever_the_log), CRASHES),
    Mutant(104, "a retry runs again", replacing(LedgerState, "_apply_once", _no_memory_of_results), CUTS, ("apps",)),
)
