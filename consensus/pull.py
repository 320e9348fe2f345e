"""Copying the committed log from any peer: what observers live on (rule C5).

An observer is in no Raft configuration, so the leader's work does not grow with their number. It asks one peer at a
time for what follows on its own last entry; the peer answers at once if it has something, else when it has, or when
the waiting time is over. Whatever is answered is committed, so it can be taken from anybody who is trusted, and asked
for twice.

`Puller` decides whom to ask and when; it neither sends nor writes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.raft.messages import Configuration, LogEntry, SnapshotMeta
from mesh.machine import ASLEEP
from mesh.names import MeshId, NodeId
from mesh.versioned import Codec, Limits

PULL = Codec(Limits(total_bytes_max=1024 * 1024 + 64 * 1024, bytes_max=1024 * 1024))

PIECE_BYTES = 256 * 1024
"""Of a snapshot; small, so that it shares a thin link with entries and heartbeats."""

WAIT_S = 5.0
"""How long a peer may keep a question open. Each of its answers also says how old the copy is."""

ANSWER_S = 3.0
"""How much later than its waiting time an answer may come."""

LOOK_AROUND_S = 1.0
"""How often a replica without a leader asks one of its peers, the next one each time; and an observer, when all that
it can ask are out of touch."""

STALE_S = 2 * WAIT_S
"""A copy that heard of a leader so long ago is no better than ours: two that copy from each other learn nothing. A
copy of a copy may be two waiting times old and alive."""

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 2.0
SNAPSHOT_BYTES_MAX = 1024 * 1024 * 1024


@PULL.message("pull.request")
@dataclass(frozen=True, slots=True)
class PullRequest:
    """What follows on this entry? Index 0: everything."""

    mesh_id: MeshId
    group: int
    epoch: int
    after_index: int
    after_term: int
    wait_ms: int


@PULL.message("pull.snapshot-request")
@dataclass(frozen=True, slots=True)
class PieceRequest:
    mesh_id: MeshId
    group: int
    epoch: int
    index: int  # which snapshot; 0: the newest
    offset: int


@PULL.message("pull.answer")
@dataclass(frozen=True, slots=True)
class PullAnswer:
    """Committed entries, or the word that they are compacted; and what the answering copy knows of the group."""

    epoch: int
    commit: int
    leader: NodeId | None
    term: int
    configuration: Configuration
    heard_ms_ago: int  # since this copy last heard, through however many others, from a leader
    entries: tuple[LogEntry, ...]
    use_snapshot: bool


@PULL.message("pull.piece")
@dataclass(frozen=True, slots=True)
class Piece:
    meta: SnapshotMeta
    offset: int
    payload: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask this peer; then `Puller.answered` or `Puller.failed` with the same number."""

    number: int
    to: NodeId
    request: PullRequest | PieceRequest
    timeout_s: float


@dataclass(frozen=True, slots=True)
class PulledSnapshot:
    meta: SnapshotMeta
    payload: bytes


class Puller:
    """Asks one peer at a time, the one that answered last as long as it answers.

    Args:
        mesh_id: Whose ledger.
        group: Which group.
        position: Index and term of the last entry here that is durable and committed.
        rng: For jitter and for whom to ask first.
    """

    def __init__(
        self, mesh_id: MeshId, group: int, epoch: int, *, position: Callable[[], tuple[int, int]], rng: random.Random
    ) -> None:
        self.mesh_id = mesh_id
        self._group = group
        self.epoch = epoch
        self._position = position
        self._rng = rng
        self._sources: list[NodeId] = []
        self._number = 0
        self._asked: Pull | None = None
        self._answer_until = ASLEEP
        self._next_at = ASLEEP
        self._backoff_s = BACKOFF_S_MIN
        self._running = False
        self._patient = True
        self._stale_answers = 0  # in a row
        self._pieces: bytearray | None = None  # a snapshot is being fetched
        self._meta: SnapshotMeta | None = None
        self._due: Pull | None = None
        self._last: NodeId | None = None  # who was asked last

    @property
    def is_running(self) -> bool:
        return self._running

    def set_sources(self, sources: Sequence[NodeId], now: float) -> None:
        """The peers that could be asked now; whom we ask stays first while it is among them."""
        fresh = sorted(set(sources) - set(self._sources))
        self._rng.shuffle(fresh)
        self._sources = [node for node in self._sources if node in sources] + fresh
        if self._asked is not None and self._asked.to not in self._sources:
            self._forget(now)
        elif fresh and self._next_at != ASLEEP and self._asked is None:
            self._next_at = now

    def start(self, now: float, *, patient: bool = True) -> None:
        """Begin to ask. Not patient: an answer without entries comes at once, and the next question later."""
        self._patient = patient
        if not self._running:
            self._running = True
            self._next_at = now

    def hurry(self, now: float) -> None:
        """If nothing is asked at present, ask now."""
        if self._running and self._asked is None:
            self._next_at = now

    def stop(self) -> None:
        """Ask no more; an answer on its way will be of no use."""
        self._running = False
        self._asked = self._due = None
        self._answer_until = self._next_at = ASLEEP
        self._drop_pieces()

    def next_deadline(self) -> float:
        return min(self._answer_until, self._next_at)

    def tick(self, now: float) -> None:
        """Give up on an answer that is late; ask if it is time."""
        if self._asked is not None and now >= self._answer_until:
            self._forget(now)
        if self._asked is None and now >= self._next_at:
            self._ask(now)

    def take(self) -> Pull | None:
        """The question to be asked now, once."""
        due, self._due = self._due, None
        return due

    def answered(self, now: float, number: int, answer: PullAnswer | Piece) -> PullAnswer | PulledSnapshot | None:
        """An answer came. Returns what is to be taken into the log: entries, or a whole snapshot.

        The next question is not asked before `go_on`, so that nothing is asked twice while it is being written.
        """
        if self._asked is None or number != self._asked.number:
            return None
        asked, self._asked = self._asked, None
        self._answer_until = ASLEEP
        self._backoff_s = BACKOFF_S_MIN
        if isinstance(answer, PullAnswer):
            self._drop_pieces()
            self._judge(asked.to, answer)
            if answer.use_snapshot:
                self._pieces = bytearray()
                self._next_at = now
            return answer
        return self._take_piece(now, answer)

    def go_on(self, now: float) -> None:
        """What was answered is durable; ask for what follows."""
        if self._running and self._asked is None and self._next_at == ASLEEP:
            all_stale = self._stale_answers >= max(1, len(self._sources))
            self._next_at = now if self._patient and not all_stale else now + LOOK_AROUND_S
            if not self._patient and self._last is not None:
                self._put_last(self._last)

    def failed(self, now: float, number: int) -> None:
        """No answer, or a refusal."""
        if self._asked is not None and number == self._asked.number:
            self._forget(now)

    def _judge(self, source: NodeId, answer: PullAnswer) -> None:
        """Ask another one next, if this one has nothing and is out of touch itself."""
        has_news = bool(answer.entries) or answer.use_snapshot
        if has_news or answer.heard_ms_ago <= STALE_S * 1000:
            self._stale_answers = 0
        else:
            self._stale_answers += 1
            self._put_last(source)

    def _put_last(self, source: NodeId) -> None:
        if source in self._sources:
            self._sources.remove(source)
            self._sources.append(source)

    def _take_piece(self, now: float, piece: Piece) -> PulledSnapshot | None:
        pieces = self._pieces
        if pieces is None or (self._meta not in (None, piece.meta)) or piece.offset != len(pieces):
            self._drop_pieces()  # another snapshot than the one begun: ask anew what follows on our entry
            self._next_at = now
            return None
        self._meta = piece.meta
        pieces += piece.payload
        if not piece.done and len(pieces) <= SNAPSHOT_BYTES_MAX:
            self._next_at = now
            return None
        self._drop_pieces()
        if not piece.done:
            self._next_at = now + BACKOFF_S_MAX
            return None
        return PulledSnapshot(piece.meta, bytes(pieces))

    def _ask(self, now: float) -> None:
        if not self._sources:
            self._next_at = now + BACKOFF_S_MAX
            return
        self._number += 1
        self._next_at = ASLEEP
        index, term = self._position()
        # One that is out of touch is not worth waiting for before all others were asked.
        is_looking_around = 0 < self._stale_answers < len(self._sources)
        wait_s = WAIT_S if self._patient and not is_looking_around else 0.0
        request: PullRequest | PieceRequest
        if self._pieces is not None:
            wait_s = 0.0
            at = self._meta.index if self._meta is not None else 0
            request = PieceRequest(self.mesh_id, self._group, self.epoch, at, len(self._pieces))
        else:
            request = PullRequest(self.mesh_id, self._group, self.epoch, index, term, int(wait_s * 1000))
        self._last = self._sources[0]
        self._asked = self._due = Pull(self._number, self._sources[0], request, wait_s + ANSWER_S)
        self._answer_until = now + wait_s + ANSWER_S

    def _forget(self, now: float) -> None:
        """Whom we asked is of no use at the moment: the others first, and not at once."""
        assert self._asked is not None
        asked, self._asked = self._asked, None
        self._due = None
        self._answer_until = ASLEEP
        self._drop_pieces()
        self._put_last(asked.to)
        self._next_at = now + self._backoff_s * (0.5 + self._rng.random())
        self._backoff_s = min(BACKOFF_S_MAX, 2 * self._backoff_s)

    def _drop_pieces(self) -> None:
        self._pieces = None
        self._meta = None
