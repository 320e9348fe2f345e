"""A group is made smaller only around voters that have answered the leader who does it."""

from __future__ import annotations

from consensus.raft.outputs import NotAllowed
from tests.unit.consensus.raft.dialogue import Dialogue


def test_a_new_leader_builds_no_smaller_group_on_a_voter_that_has_not_answered_it() -> None:
    talk = Dialogue()
    talk.become_ready_leader(2)
    refused = talk.change((1, 3))
    assert isinstance(refused, NotAllowed)
    assert "no live quorum" in refused.reason


def test_it_does_on_one_that_has() -> None:
    talk = Dialogue()
    talk.become_ready_leader(2)
    talk.pass_time(0.2)
    talk.ack_heartbeats(3)
    assert isinstance(talk.change((1, 3)), int)
