"""How a leader is found: timers, pre-vote, vote, and who refuses to help.

A follower that hears nothing for its timeout asks, without changing anything, whether it could win (pre-vote, §9.6),
and only then raises its term. Who has heard the leader lately refuses (CheckQuorum, §6.2), so that a replica with bad
links unseats nobody, unless the leader itself asked for the election, or its link to the asked one was closed by the
kernel of the leader's machine, which is better evidence than any timer.

Source: thesis §3.4, §3.6, §9.6; Howard & Abraham, "Raft does not guarantee liveness in the face of network faults"
(2020), for why pre-vote and CheckQuorum are only right together (pitfall 6).
"""

from __future__ import annotations

from math import inf

from consensus.raft import quorum
from consensus.raft.core import Core
from consensus.raft.messages import PreVoteReply, PreVoteRequest, VoteReply, VoteRequest
from consensus.raft.outputs import RaftRole
from consensus.raft.quorum import VoteResult
from mesh.names import NodeId


class Election:
    """The timers of a replica that does not lead, and the tally of one that wants to.

    Args:
        core: The replica's shared state.
        may_vote: False for a replica whose store is new: it has forgotten its votes, so it casts none and does not
            stand until it is re-admitted (rule T3, fault D5).
    """

    def __init__(self, core: Core, *, may_vote: bool) -> None:
        self._core = core
        self.may_vote = may_vote
        self.deadline = inf
        self.shortcut_at = inf
        self._leader_heard_at = -inf
        self._leader_link_closed = False
        self._votes: dict[NodeId, bool] = {}
        self.reset_timer()

    def next_deadline(self) -> float:
        return min(self.deadline, self.shortcut_at)

    # --- timers -----------------------------------------------------------------------------------------------

    def reset_timer(self) -> None:
        """Wait a whole timeout from now, drawn anew."""
        core = self._core
        self.deadline = core.now + core.rng.uniform(core.election_min_s, core.election_max_s)
        self.shortcut_at = inf

    def hear_leader(self) -> None:
        """A message of the present term's leader came. A granted pre-vote is none (pitfall 6)."""
        self._leader_heard_at = self._core.now
        self._leader_link_closed = False
        self.reset_timer()

    def leader_link_closed(self) -> None:
        """The kernel of the leader's machine closed its link to us: it is gone, or so it seems from here (C1).

        The short random wait lets one follower be first, or several would split the vote and wait a whole timeout.
        """
        core = self._core
        self._leader_link_closed = True
        self.shortcut_at = min(self.shortcut_at, core.now + core.rng.uniform(0, core.heartbeat_s / 2))

    def shields_leader(self) -> bool:
        """Whether a leader was heard so lately that this replica helps nobody to replace it."""
        core = self._core
        if core.is_leader:
            return True
        if core.leader is None or self._leader_link_closed:
            return False
        return core.now - self._leader_heard_at < core.election_min_s

    # --- standing ---------------------------------------------------------------------------------------------

    def may_stand(self) -> bool:
        return self.may_vote and self._core.members.may_campaign(self._core.me)

    def start_pre_vote(self) -> VoteResult:
        """Ask whether an election could be won. The leader is forgotten (pitfall 6); term and vote stay."""
        core = self._core
        core.role = RaftRole.PRE_CANDIDATE
        core.leader = None
        self.reset_timer()
        self._votes = {core.me: True}
        request = PreVoteRequest(core.term + 1, core.log.last_index, core.log.last_term)
        for voter in core.configuration.all_voters():
            if voter != core.me:
                core.send(voter, request)
        return quorum.vote_result(core.configuration, self._votes)

    def start_vote(self, *, transfer: bool) -> None:
        """Raise the term and ask for votes. Requests and the own vote wait for the disk (pitfall 1)."""
        core = self._core
        core.role = RaftRole.CANDIDATE
        core.leader = None
        core.enter_term(core.term + 1, core.me)
        self.reset_timer()
        self._votes = {}
        request = VoteRequest(core.log.last_index, core.log.last_term, transfer)
        for voter in core.configuration.all_voters():
            if voter != core.me:
                core.send_after_persist(voter, request)

    def count_own_vote(self) -> VoteResult:
        """This term and the vote for ourselves are durable."""
        return self._count(self._core.me, granted=True)

    def receive_pre_vote_reply(self, sender: NodeId, reply: PreVoteReply) -> VoteResult:
        if self._core.role is not RaftRole.PRE_CANDIDATE or reply.for_term != self._core.term + 1:
            return VoteResult.PENDING
        return self._count(sender, granted=reply.granted)

    def receive_vote_reply(self, sender: NodeId, reply: VoteReply) -> VoteResult:
        if self._core.role is not RaftRole.CANDIDATE:
            return VoteResult.PENDING
        return self._count(sender, granted=reply.granted)

    def _count(self, voter: NodeId, *, granted: bool) -> VoteResult:
        self._votes.setdefault(voter, granted)
        return quorum.vote_result(self._core.configuration, self._votes)

    # --- voting -----------------------------------------------------------------------------------------------

    def answer_pre_vote(self, sender: NodeId, request: PreVoteRequest) -> None:
        """Neither term, vote nor timer change. Learners answer, too: they may be voters and not know it (pitfall 11).

        Silence while a leader is shielded; a refusal otherwise, whose envelope tells a candidate that is behind.
        """
        core = self._core
        if self.shields_leader():
            return
        granted = (
            self.may_vote
            and request.for_term > core.term
            and core.log.is_up_to_date(request.last_index, request.last_term)
        )
        core.send(sender, PreVoteReply(request.for_term, granted))
        if granted and self.shortcut_at != inf:
            # Someone was first: let it try before we do. The real timer runs on.
            self.shortcut_at = core.now + core.rng.uniform(core.heartbeat_s / 2, core.heartbeat_s)

    def answer_vote(self, sender: NodeId, request: VoteRequest) -> None:
        """In the present term. One vote a term, for a log not behind ours; said when it is durable (thesis §3.6.1)."""
        core = self._core
        granted = (
            self.may_vote
            and core.vote in (None, sender)
            and (core.leader is None or core.leader == sender)
            and core.log.is_up_to_date(request.last_index, request.last_term)
        )
        if not granted:
            core.send(sender, VoteReply(granted=False))
            return
        core.vote = sender
        core.role = RaftRole.FOLLOWER  # a pre-candidate that helps another has given up its own wish
        self.reset_timer()
        core.send_after_persist(sender, VoteReply(granted=True))
