"""Snapshots on their way: chunk by chunk from the leader, resumed where they broke off, installed at the end.

The machine never holds a snapshot's bytes. The leader asks its driver for the chunk that a follower needs next and
sends it; the follower hands each chunk to its driver and says how many bytes it has. A transfer is one chunk in
flight: it shares the leader's link with the log, and it must not crowd it.

Source: thesis §5.1–5.3, figure 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from consensus.raft.core import Core
from consensus.raft.messages import Appended, SnapshotChunk, SnapshotMeta, SnapshotReply
from consensus.raft.outputs import InstallSnapshot, NeedSnapshot, ReceivedChunk
from consensus.raft.progress import Progress, ProgressState, SnapshotTransfer
from mesh.names import NodeId


class SnapshotSender:
    """The leader's side: which followers wait for which bytes. The state of each is in its `Progress`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def ask(self, peers: Iterable[Progress], *, is_alive_after: float) -> None:
        """Ask the driver for the chunks that are due.

        None for followers that are not there (pitfall 24); nor do those keep the few places from the others.
        """
        waiting = [peer for peer in peers if peer.transfer is not None and peer.heard_at > is_alive_after]
        active = sum(1 for peer in waiting if peer.transfer is not None and peer.transfer.is_active)
        for peer in waiting:
            transfer = peer.transfer
            assert transfer is not None, "only followers with a transfer wait"
            if not transfer.is_active and active >= self._core.config.snapshots_at_once:
                continue
            active += 0 if transfer.is_active else 1
            self._ask_one(peer, transfer)

    def _ask_one(self, peer: Progress, transfer: SnapshotTransfer) -> None:
        core = self._core
        if transfer.is_active and core.now - transfer.progressed_at > core.config.snapshot_stall_s:
            peer.probe()
            return
        if core.now - transfer.asked_at < core.config.snapshot_resend_s:
            return
        if not transfer.is_active:
            transfer.progressed_at = core.now
        if transfer.offset >= transfer.end:
            # It has all, and does not say that it is done: the last chunk again asks whether it still installs.
            transfer.offset = transfer.last_offset
        transfer.asked_at = core.now
        transfer.sending = True
        core.needs.append(NeedSnapshot(peer.node_id, transfer.index, transfer.offset))

    def give_chunk(self, peer: Progress, chunk: SnapshotChunk) -> bool:
        """The driver's answer to `NeedSnapshot`. Returns whether it was sent; late answers are not."""
        transfer = peer.transfer
        if peer.state is not ProgressState.SNAPSHOT or transfer is None or not transfer.sending:
            return False
        begins_anew = chunk.meta.index != transfer.index
        if chunk.offset != (0 if begins_anew else transfer.offset):
            return False
        if begins_anew:
            transfer.index = chunk.meta.index
            transfer.offset = 0
        transfer.last_offset = chunk.offset
        transfer.end = chunk.offset + len(chunk.payload) if chunk.done else inf
        transfer.sending = False
        self._core.send(peer.node_id, chunk)
        return True

    def receive_reply(self, peer: Progress, reply: SnapshotReply) -> None:
        """The follower has so many bytes: the next chunk is due at once."""
        transfer = peer.transfer
        if transfer is None or reply.index != transfer.index or reply.offset == transfer.offset:
            return
        if reply.offset > transfer.offset:
            transfer.progressed_at = self._core.now
        transfer.offset = reply.offset
        is_complete = transfer.offset >= transfer.end
        transfer.asked_at = self._core.now - (0 if is_complete else self._core.config.snapshot_resend_s)


class SnapshotReceiver:
    """The follower's side. While an installation is pending nothing is applied and nobody campaigns (pitfall 17, 22).

    Chunks are gathered only from one sender and for one snapshot; another one's begin anew, as equal snapshots of
    two nodes need not have equal bytes.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._from: tuple[NodeId, bytes, SnapshotMeta] | None = None
        self._offset = 0
        self.installing: SnapshotMeta | None = None
        self._install_told = False

    def receive_chunk(self, sender: NodeId, boot_nonce: bytes, chunk: SnapshotChunk) -> None:
        """Take the next bytes. What is committed here already needs no snapshot (pitfall 22)."""
        core = self._core
        log = core.log
        meta = chunk.meta
        if self.installing is not None:
            if meta.index <= self.installing.index:
                core.send(sender, SnapshotReply(self.installing.index, self._offset))
            return
        if log.term_at(meta.index) == meta.term:
            log.commit_to(meta.index)  # the log holds all of it: a snapshot is of committed entries
        if meta.index <= log.commit:
            self._from = None
            core.send_after_persist(sender, Appended(log.commit))
            return
        if self._from != (sender, boot_nonce, meta):
            if chunk.offset > 0:
                core.send(sender, SnapshotReply(meta.index, 0))
                return
            self._from = (sender, boot_nonce, meta)
            self._offset = 0
        elif chunk.offset != self._offset:
            core.send(sender, SnapshotReply(meta.index, self._offset))
            return
        core.chunks.append(ReceivedChunk(meta, chunk.offset, chunk.payload, chunk.done))
        self._offset += len(chunk.payload)
        if chunk.done:
            self.installing = meta
            self._install_told = False
        core.send(sender, SnapshotReply(meta.index, self._offset))

    def take_install(self) -> InstallSnapshot | None:
        """What the driver has to install, once."""
        if self.installing is None or self._install_told:
            return None
        self._install_told = True
        return InstallSnapshot(self.installing)

    def finish(self) -> None:
        """The installation ended, well or badly."""
        self.installing = None
        self._from = None
        self._offset = 0
