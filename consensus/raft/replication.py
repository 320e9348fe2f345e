"""The leader's side of the log: what each follower gets, what they acknowledged, what is committed.

Nothing is sent when something is proposed. `flush`, called when the output is taken, gives each follower what it
lacks and its window allows; so all that was proposed between two outputs travels together.

Source: thesis §3.5, §3.6.2, §10.2.1 (the leader sends while its own disk still writes); etcd-io/raft for the probing
and the window.
"""

from __future__ import annotations

from consensus.raft import quorum
from consensus.raft.core import Core
from consensus.raft.messages import Append, Appended, AppendRefused, Heartbeat, ReplicaMark
from consensus.raft.progress import Progress, ProgressState, Window
from mesh.names import NodeId


class Replication:
    """Exists from election to step-down; so does everything the leader believes about its followers."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.peers: dict[NodeId, Progress] = {}
        self.uncommitted_bytes = core.log.size_bytes(core.log.commit + 1, core.log.last_index)
        self.sync_peers()

    def sync_peers(self) -> None:
        """Follow the acting configuration: unknown followers begin with a probe at the log's end."""
        core = self._core
        wanted = [node_id for node_id in core.members.everyone if node_id != core.me]
        self.peers = {node_id: self.peers.get(node_id) or self._new_peer(node_id) for node_id in wanted}

    def _new_peer(self, node_id: NodeId) -> Progress:
        config = self._core.config
        window = Window(messages_max=config.inflight_messages_max, bytes_max=config.inflight_bytes_max)
        return Progress(node_id, next_index=self._core.log.last_index + 1, window=window, now=self._core.now)

    # --- sending ----------------------------------------------------------------------------------------------

    def flush(self, read_round: int) -> None:
        """Send what each follower lacks, as far as its window allows."""
        for peer in self.peers.values():
            self._feed(peer, read_round)

    def _feed(self, peer: Progress, read_round: int) -> None:
        if peer.state is ProgressState.SNAPSHOT:
            return
        if peer.state is ProgressState.PROBE:
            if not peer.probe_sent:
                peer.probe_sent = self._send_append(peer)
            return
        last_index = self._core.log.last_index
        while peer.next_index <= last_index and not peer.window.is_full:
            if not self._send_append(peer):
                return
        if peer.commit_sent < min(self._core.log.commit, peer.match):
            self.send_heartbeat(peer, read_round)

    def _send_append(self, peer: Progress) -> bool:
        """One batch from the follower's next index on; empty if it has all. False: it needs a snapshot."""
        core = self._core
        previous = peer.next_index - 1
        previous_term = core.log.term_at(previous)
        if previous_term is None or peer.next_index < core.log.first_index:
            peer.need_snapshot(core.now)
            return False
        config = core.config
        entries = core.log.batch(
            peer.next_index, entries_max=config.batch_entries_max, bytes_max=config.batch_bytes_max
        )
        core.send(peer.node_id, Append(previous, previous_term, core.log.commit, entries))
        peer.commit_sent = max(peer.commit_sent, min(core.log.commit, previous + len(entries)))
        if peer.state is ProgressState.REPLICATE and entries:
            peer.window.add(entries[-1].index, sum(entry.size_bytes() for entry in entries))
            peer.next_index = entries[-1].index + 1
        return True

    def broadcast_heartbeat(self, read_round: int) -> None:
        """To everyone, learners and those waiting for a snapshot included."""
        for peer in self.peers.values():
            self.send_heartbeat(peer, read_round)

    def send_heartbeat(self, peer: Progress, read_round: int) -> None:
        """The commit index in it is one that this follower has acknowledged, so it needs no check of the log."""
        commit = min(self._core.log.commit, peer.match)
        peer.commit_sent = max(peer.commit_sent, commit)
        self._core.send(peer.node_id, Heartbeat(commit, read_round))

    # --- answers ----------------------------------------------------------------------------------------------

    def hear(self, sender: ReplicaMark) -> Progress | None:
        """A reply of this term came from this follower; None if it is nobody here (pitfall 15)."""
        peer = self.peers.get(sender.node_id)
        if peer is None:
            return None
        if peer.store_id not in (None, sender.store_id):
            peer.forget()
        elif peer.boot_nonce not in (None, sender.boot_nonce):
            peer.probe()  # started again: what was in flight is gone, its log is not
        peer.store_id = sender.store_id
        peer.boot_nonce = sender.boot_nonce
        peer.heard_at = self._core.now
        return peer

    def receive_appended(self, peer: Progress, reply: Appended) -> bool:
        """Returns whether the commit index rose."""
        log = self._core.log
        if reply.match > log.last_index:
            return False  # not of this leader's log: nothing that it sent could be answered so
        news = peer.acknowledge(reply.match)
        if peer.state is ProgressState.PROBE and (news or reply.match == peer.match):
            peer.replicate()
        elif peer.state is ProgressState.SNAPSHOT and peer.match + 1 >= log.first_index:
            # Whatever snapshot brought it here, it can be fed from the log again (pitfall 24).
            peer.replicate()
        elif news and peer.transfer is not None and peer.transfer.index <= peer.match:
            # It has installed that one, and meanwhile the log was compacted beyond it: another one.
            peer.need_snapshot(self._core.now)
        return news and self.advance_commit()

    def receive_refused(self, peer: Progress, reply: AppendRefused) -> None:
        agreement = reply.hint_index
        if reply.hint_term > 0:
            agreement, _ = self._core.log.agreement_hint(reply.hint_index, reply.hint_term)
        peer.refuse(reply.rejected, agreement)

    def receive_heartbeat_reply(self, peer: Progress) -> None:
        """It lives: what was sent and not acknowledged may have been lost, so ask where it stands."""
        if peer.state is ProgressState.PROBE:
            peer.probe_sent = False
        elif peer.state is ProgressState.REPLICATE and peer.next_index > peer.match + 1:
            self._ask_where(peer)

    def _ask_where(self, peer: Progress) -> None:
        """An empty Append at the end of what was sent: refused if something before it was lost."""
        core = self._core
        previous_term = core.log.term_at(peer.next_index - 1)
        if previous_term is None:
            peer.probe()  # what it lacks was compacted meanwhile; the probe finds out whether a snapshot is needed
            return
        core.send(peer.node_id, Append(peer.next_index - 1, previous_term, core.log.commit, ()))

    def link_closed(self, node_id: NodeId) -> None:
        """What was on its way to this follower is probably lost."""
        peer = self.peers.get(node_id)
        if peer is not None and peer.state is ProgressState.REPLICATE:
            peer.probe()

    # --- commit -----------------------------------------------------------------------------------------------

    def match_of(self, node_id: NodeId) -> int:
        """How far this replica's log is durably ours. The leader's own counts like any other's: when its disk has
        it, and no sooner (pitfall 2)."""
        if node_id == self._core.me:
            return self._core.log.stable
        peer = self.peers.get(node_id)
        return peer.match if peer else 0

    def advance_commit(self) -> bool:
        """Commit what a quorum has, if it is of this term; all before it is then committed, too (pitfall 3)."""
        core = self._core
        index = quorum.committed_index(core.configuration, self.match_of)
        before = core.log.commit
        if index <= before or core.log.term_at(index) != core.term:
            return False
        core.log.commit_to(index)
        self.uncommitted_bytes -= core.log.size_bytes(before + 1, index)
        return True

    # --- who lives --------------------------------------------------------------------------------------------

    def heard_at(self, node_id: NodeId) -> float:
        if node_id == self._core.me:
            return self._core.now
        peer = self.peers.get(node_id)
        return peer.heard_at if peer else float("-inf")

    def is_alive(self, node_id: NodeId) -> bool:
        return self.heard_at(node_id) > self._core.now - self._core.election_max_s

    def answers(self, node_id: NodeId) -> bool:
        """Whether it is alive, and by an answer to this very leadership: `is_alive` gives everybody a first timeout
        of credit, which is too little to build a smaller group on."""
        peer = self.peers.get(node_id)
        return node_id == self._core.me or (
            peer is not None and peer.boot_nonce is not None and self.is_alive(node_id)
        )

    def has_live_quorum(self) -> bool:
        """CheckQuorum: whether both majorities were heard within an election timeout (thesis §6.2, pitfall 13)."""
        since = quorum.quorum_time(self._core.configuration, self.heard_at)
        return since > self._core.now - self._core.election_max_s

    def is_caught_up(self, node_id: NodeId, behind_max: int) -> bool:
        peer = self.peers.get(node_id)
        if peer is None:
            return node_id == self._core.me
        return peer.state is ProgressState.REPLICATE and peer.match + behind_max >= self._core.log.last_index

    def best_successor(self) -> NodeId | None:
        """A living voter that has the whole log, for an election that it will win."""
        core = self._core
        for node_id in core.configuration.all_voters():
            peer = self.peers.get(node_id)
            if peer and peer.match == core.log.last_index and self.is_alive(node_id):
                return node_id
        return None
