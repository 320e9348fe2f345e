"""Linearizable reads: one round of heartbeats proves for all that wait that the leader still leads (thesis §6.4).

A read asks for an index that is at least as new as any write finished before it. The leader takes its commit index,
then shows by a heartbeat round, begun after the read came, that no other leader can have committed more. There are
no leases: `CLOCK_MONOTONIC` stands still in suspend (rule C1).

Rounds have their own numbers, which only grow; a caller's token or a forwarder's number is never compared with what
followers acknowledge. Else a late acknowledgement of an earlier question would answer a repeated one (pitfall 10,
etcd-io/raft PR 397).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from consensus.raft import quorum
from consensus.raft.core import Core
from consensus.raft.messages import ReadReply, ReadRequest, ReplicaMark
from consensus.raft.outputs import ReadReady, ReadRefused
from mesh.names import NodeId

REFUSED = -1
"""The index of a `ReadReply` that says no."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Who asked: this replica's own caller by token, or another replica by its number."""

    token: int
    asker: ReplicaMark | None


class Reads:
    """All reads at one replica: those that the leader has to prove, and those that wait here for an answer."""

    def __init__(self, core: Core) -> None:
        self._core = core
        # Leading:
        self._waiting: list[_Read] = []  # for the next round
        self._in_round: list[_Read] = []
        self._round_index = 0
        self.round = 0
        self._acknowledged: dict[NodeId, int] = {}
        # Anywhere:
        self._number = 0
        self._forwarded: dict[int, tuple[int, float]] = {}  # number → token, deadline
        self._to_apply: list[tuple[int, int]] = []  # index, token

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_round) + len(self._forwarded) + len(self._to_apply)

    def next_deadline(self) -> float:
        return min((deadline for _, deadline in self._forwarded.values()), default=inf)

    # --- asking -----------------------------------------------------------------------------------------------

    def ask(self, token: int) -> None:
        """A caller here wants to read; answered by `ReadReady` or `ReadRefused` in some later output."""
        core = self._core
        if len(self) >= core.config.reads_max:
            self._refuse(token, "too many reads are waiting")
        elif core.is_leader:
            self._waiting.append(_Read(token, None))
        elif core.leader is None:
            self._refuse(token, "no leader is known")
        else:
            self._number += 1
            self._forwarded[self._number] = (token, core.now + 2 * core.election_max_s)
            core.send(core.leader, ReadRequest(self._number))

    def receive_request(self, asker: ReplicaMark, request: ReadRequest) -> None:
        """Another replica forwards a read."""
        if not self._core.is_leader or len(self) >= self._core.config.reads_max:
            self._answer(_Read(request.number, asker), REFUSED)
        else:
            self._waiting.append(_Read(request.number, asker))

    def receive_reply(self, reply: ReadReply) -> None:
        """The leader's answer; one for an earlier start of this node is for nobody."""
        if reply.boot_nonce != self._core.mark.boot_nonce or reply.number not in self._forwarded:
            return
        token, _ = self._forwarded.pop(reply.number)
        if reply.index == REFUSED:
            self._refuse(token, "the leader could not prove that it leads")
        else:
            self._ready_at(token, reply.index)

    # --- leading ----------------------------------------------------------------------------------------------

    def start_round(self, *, ready: bool) -> bool:
        """Begin a round for all that wait, if none is under way and this term's no-op is committed (pitfall 4).

        Returns:
            Whether heartbeats with the new number have to go out.
        """
        if not ready or self._in_round or not self._waiting:
            return False
        self._in_round, self._waiting = self._waiting, []
        self._round_index = self._core.log.commit
        self.round += 1
        self.check_round()
        return bool(self._in_round)

    def acknowledge(self, sender: NodeId, round_number: int) -> None:
        """A follower heard this round, hence it still took us for the leader after the round's reads had come."""
        if round_number > self.round:
            return  # of an earlier leadership's making or a broken peer's: nobody asked
        if round_number > self._acknowledged.get(sender, 0):
            self._acknowledged[sender] = round_number
            self.check_round()

    def check_round(self) -> None:
        """Finish the round if a quorum has heard it. Also called when the configuration changes, which may make the
        answers that are there enough (pitfall 10)."""
        if not self._in_round:
            return
        heard = [node_id for node_id, number in self._acknowledged.items() if number >= self.round]
        if not quorum.is_quorum(self._core.configuration, [*heard, self._core.me]):
            return
        finished, self._in_round = self._in_round, []
        for read in finished:
            self._answer(read, self._round_index)

    def stop_leading(self) -> None:
        """Nothing can be proved any more. Round numbers go on: none is used twice in this replica's life."""
        for read in [*self._in_round, *self._waiting]:
            self._answer(read, REFUSED)
        self._in_round = []
        self._waiting = []
        self._acknowledged = {}

    def leader_changed(self) -> None:
        """Whoever was asked may never answer."""
        for token, _ in self._forwarded.values():
            self._refuse(token, "the leader changed")
        self._forwarded = {}

    # --- answering --------------------------------------------------------------------------------------------

    def applied_to(self, index: int) -> None:
        """The state machine here got this far."""
        ready = [(at, token) for at, token in self._to_apply if at <= index]
        if ready:
            self._to_apply = [(at, token) for at, token in self._to_apply if at > index]
            self._core.answers.extend(ReadReady(token, index) for _, token in ready)

    def tick(self) -> None:
        late = [number for number, (_, deadline) in self._forwarded.items() if deadline <= self._core.now]
        for number in late:
            token, _ = self._forwarded.pop(number)
            self._refuse(token, "the leader did not answer in time")

    def _answer(self, read: _Read, index: int) -> None:
        if read.asker is not None:
            self._core.send(read.asker.node_id, ReadReply(read.token, read.asker.boot_nonce, index))
        elif index == REFUSED:
            self._refuse(read.token, "leadership ended")
        else:
            self._ready_at(read.token, index)

    def _ready_at(self, token: int, index: int) -> None:
        if self._core.log.applied >= index:
            self._core.answers.append(ReadReady(token, self._core.log.applied))
        else:
            self._to_apply.append((index, token))

    def _refuse(self, token: int, reason: str) -> None:
        self._core.answers.append(ReadRefused(token, reason))
