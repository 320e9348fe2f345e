"""What a group's node gives to others: committed entries to observers, snapshots to whoever is far behind."""

from __future__ import annotations

from collections.abc import Callable

from consensus.log_mirror import LogMirror
from consensus.pull import PIECE_BYTES, Piece, PieceRequest, PullAnswer, PullRequest
from consensus.raft.messages import LogEntry, SnapshotMeta
from mesh.errors import RefusedError
from mesh.machine import ASLEEP
from mesh.names import MeshId, NodeId

KEEP_S = 60.0
"""An encoded snapshot that nobody asked for in this time is let go: it may be as large as the state itself."""

BATCH_ENTRIES_MAX = 512
BATCH_BYTES_MAX = 512 * 1024


class OutgoingSnapshot:
    """The state as bytes while someone is fetching it.

    It is taken from the state machine at its applied index, not read from the disk: that is newer, everything in it
    is committed, and the disk is left alone.

    Args:
        take: Makes a snapshot of the present state.
    """

    def __init__(self, take: Callable[[], tuple[SnapshotMeta, bytes]]) -> None:
        self._take = take
        self._kept: tuple[SnapshotMeta, bytes] | None = None
        self.drop_at = ASLEEP

    def piece(self, index: int, offset: int, *, at_least: int, now: float) -> Piece:
        """The bytes from `offset` on of the snapshot at `index`, or the first ones of another if that is gone.

        Args:
            index: Which; 0: any.
            offset: Where to begin.
            at_least: A snapshot from before this index is of no use: the log does not reach back to it.
            now: The time.
        """
        kept = self._kept
        if kept is None or kept[0].index < at_least or (offset == 0 and index != kept[0].index):
            kept = self._take()
        if kept[0].index != index or offset > len(kept[1]):
            offset = 0
        self._kept = kept
        self.drop_at = now + KEEP_S
        meta, payload = kept
        end = offset + PIECE_BYTES
        return Piece(meta, offset, payload[offset:end], end >= len(payload))

    def tick(self, now: float) -> None:
        if now >= self.drop_at:
            self._kept, self.drop_at = None, ASLEEP


def check_asker(request: PullRequest | PieceRequest, mesh_id: MeshId, epoch: int) -> None:
    """Refuse who asks for another mesh's log, or comes from an epoch that is not ours yet.

    Raises:
        RefusedError: `pull.foreign` or `pull.behind`.
    """
    if request.mesh_id != mesh_id:
        raise RefusedError("this is another mesh", code="pull.foreign")
    if request.epoch > epoch:
        raise RefusedError("this node has not heard of that epoch yet", code="pull.behind")


def pull_answer(
    request: PullRequest,
    log: LogMirror,
    *,
    applied: int,
    epoch: int,
    leader: NodeId | None,
    term: int,
    age_s: float,
) -> PullAnswer:
    """What follows on the asker's last entry, as far as it is committed here.

    Raises:
        RefusedError: `fenced.diverged`: the asker holds another entry there. Both cannot be the mesh's history.
    """
    after = request.after_index
    if after > applied and request.epoch < epoch:
        raise _diverged(f"entry {after} was never agreed on in epoch {epoch}")
    use_snapshot = after < log.base or not log.reaches_snapshot
    entries: tuple[LogEntry, ...] = ()
    if not use_snapshot and after <= applied:
        ours = log.term_at(after)
        if ours is not None and ours != request.after_term:
            raise _diverged(f"entry {after} is of term {ours} here and of term {request.after_term} there")
        entries = log.batch(after + 1, applied, entries_max=BATCH_ENTRIES_MAX, bytes_max=BATCH_BYTES_MAX)
    return PullAnswer(
        epoch=epoch,
        commit=applied,
        leader=leader,
        term=term,
        configuration=log.configuration_at(applied),
        heard_ms_ago=min(int(age_s * 1000), 2**53) if age_s != float("inf") else 2**53,
        entries=entries,
        use_snapshot=use_snapshot and after < applied,
    )


def _diverged(why: str) -> RefusedError:
    return RefusedError(
        "the asker's history is not this mesh's",
        why=why,
        hint="it has to begin with an empty log",
        code="fenced.diverged",
    )
