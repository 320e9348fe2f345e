"""Brings entries to whoever leads, each of them exactly once.

Intuition: a letter whose answer is lost may have arrived. Sent again with the same number in the same session it is
answered and not acted on twice, so the proposer repeats it, to every new leader, until it hears or its time is over.
If then any copy may have arrived, the honest end is "unknown"; if certainly none did, it is "no quorum". A session
whose last request ended unknown is never used again, since nobody knows which number comes next.

A session carries one request at a time; there are as many as requests in flight, up to a bound, and each is opened by
an entry of its own (rule C5; thesis §6.3).

A machine: attempts go out, answers come in, time is an argument.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus.ledger_entries import CreateMesh, Done, Entry, Noop, OpenSession, Refused, Result
from consensus.proposing import NO_SESSION, Answer, Applied, Lost, NotTaken, ProposeRequest
from mesh.errors import ExhaustedError
from mesh.machine import ASLEEP
from mesh.names import NodeId

SESSIONS_MAX = 64
"""Requests of one node in flight; the ledger keeps 10,000 sessions for all nodes."""

QUEUE_MAX = 1024

ATTEMPT_S = 2.0
"""An attempt unanswered for so long is repeated: a commit takes milliseconds, an election about a second."""

MARGIN_S = 0.05
"""Attempts end so much before their request: else a message that certainly was not sent would be told as unknown."""

RETRY_S_MIN, RETRY_S_MAX = 0.02, 0.5

SESSION_UNKNOWN = "session.unknown"
SESSION_SEQUENCE = "session.sequence"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Send this request; then `answered` or `failed` with the number."""

    number: int
    to: NodeId
    request: ProposeRequest
    deadline: float


@dataclass(frozen=True, slots=True)
class Decided:
    """The entry was applied, once; the result may be a refusal."""

    index: int
    result: Result


@dataclass(frozen=True, slots=True)
class Expired:
    """The time is over and no copy of the request can have arrived."""

    leader: NodeId | None
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been applied, and nobody can tell any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """No leader will ever take it (too large)."""

    reason: str


Outcome = Decided | Expired | Unknown | Rejected


@dataclass(frozen=True, slots=True)
class Finished:
    token: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ProposerOutput:
    attempts: tuple[Attempt, ...]
    finished: tuple[Finished, ...]


@dataclass(slots=True)
class _Session:
    session_id: bytes
    sequence: int = 0  # of the last request


@dataclass(slots=True, eq=False)
class _Job:
    """One request on its way; `token` None: it opens a session."""

    token: int | None
    entry: Entry
    deadline: float
    session: _Session | None = None
    attempt: int | None = None
    asked: NodeId | None = None
    attempt_until: float = ASLEEP
    next_at: float = 0.0
    tries: int = 0
    may_have_arrived: bool = False
    reason: str = field(default="no leader is known")

    @property
    def needs_session(self) -> bool:
        return not isinstance(self.entry, OpenSession | CreateMesh | Noop)


class Proposer:
    """One node's requests.

    Args:
        rng: For the jitter of retries.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: deque[_Job] = deque()  # for a session
        self._jobs: list[_Job] = []  # that may be sent, or are
        self._free: list[_Session] = []
        self._sessions = 0
        self._opening = 0
        self._numbers = 0
        self._leader: NodeId | None = None
        self._candidates: tuple[NodeId, ...] = ()
        self._turn = 0
        self._attempts: list[Attempt] = []
        self._finished: list[Finished] = []

    # --- inputs -----------------------------------------------------------------------------------------------

    def submit(self, now: float, token: int, entry: Entry, deadline: float) -> None:
        """Have this entry applied; `Finished` with the token tells how it ended, at the deadline at the latest.

        Raises:
            ExhaustedError: Too many wait already; nothing happened.
        """
        if len(self._waiting) + len(self._jobs) >= QUEUE_MAX:
            raise ExhaustedError(
                "too many changes are waiting for the ledger", why=f"{QUEUE_MAX} on this node", code="limit.proposals"
            )
        job = _Job(token, entry, deadline, next_at=now)
        (self._waiting if job.needs_session else self._jobs).append(job)
        self._pump(now)

    def set_leader(self, now: float, leader: NodeId | None) -> None:
        """Whom this node takes for the leader. A new one is asked at once; the old one's answers may never come."""
        if leader == self._leader:
            return
        self._leader = leader
        if leader is None:
            return
        for job in self._jobs:
            if job.attempt is not None and job.asked != leader:
                self._give_up_attempt(job, arrived=True)
            if job.attempt is None:
                job.next_at = now
                job.tries = 0
        self._pump(now)

    def set_candidates(self, now: float, candidates: Sequence[NodeId]) -> None:
        """Whom to ask while no leader is known; each knows more than we do, or passes us on."""
        self._candidates = tuple(candidates)
        self._pump(now)

    def answered(self, now: float, number: int, answer: Answer) -> None:
        """A node answered an attempt."""
        job = self._job_of(number)
        if job is None:
            return
        match answer:
            case Applied(index=index, result=result):
                self._take_result(now, job, index, result)
            case Lost():
                self._give_up_attempt(job, arrived=True)
                job.reason = "the leader lost its office"
                self._retry_later(now, job)
            case NotTaken(for_good=True):
                self._end(job, Rejected(answer.reason))
            case NotTaken(leader=leader):
                self._pass_on(now, job, leader, answer.reason)
        self._pump(now)

    def failed(self, now: float, number: int, *, arrived: bool, reason: str) -> None:
        """No answer came. `arrived`: the request may have got there."""
        job = self._job_of(number)
        if job is None:
            return
        asked = job.asked
        self._give_up_attempt(job, arrived=arrived)
        job.reason = reason
        if asked == self._leader:
            self._leader = None
        self._retry_later(now, job)
        self._pump(now)

    def tick(self, now: float) -> None:
        for job in [*self._jobs, *self._waiting]:
            if now >= job.deadline:
                self._expire(job)
            elif now >= job.attempt_until:
                self._give_up_attempt(job, arrived=True)
                job.reason = "the leader does not answer"
                self._retry_later(now, job)
        self._pump(now)

    # --- outputs ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        sent = (min(job.deadline, job.attempt_until if job.attempt is not None else job.next_at) for job in self._jobs)
        waiting = (job.deadline for job in self._waiting)
        return min(min(sent, default=ASLEEP), min(waiting, default=ASLEEP))

    def take_output(self) -> ProposerOutput:
        output = ProposerOutput(tuple(self._attempts), tuple(self._finished))
        self._attempts.clear()
        self._finished.clear()
        return output

    @property
    def in_flight(self) -> int:
        """Requests that are not finished."""
        return len(self._waiting) + sum(job.token is not None for job in self._jobs)

    # --- sending ----------------------------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Give sessions to those that wait for one, open more if that is not enough, send what is due."""
        while self._waiting and self._free:
            job = self._waiting.popleft()
            job.session = self._free.pop()
            job.session.sequence += 1
            self._jobs.append(job)
        while self._opening < len(self._waiting) and self._sessions + self._opening < SESSIONS_MAX:
            # Its deadline is the last of those it is opened for: with none of them left nobody would use it.
            deadline = max(job.deadline for job in self._waiting)
            self._jobs.append(_Job(None, OpenSession(), deadline, next_at=now))
            self._opening += 1
        for job in self._jobs:
            if job.attempt is None and now >= job.next_at:
                self._send(now, job)

    def _send(self, now: float, job: _Job) -> None:
        until = min(job.deadline - MARGIN_S, now + ATTEMPT_S)
        if until <= now:
            job.next_at = ASLEEP  # too late for another
            return
        to = self._leader
        if to is None:
            if not self._candidates:
                job.next_at = now + RETRY_S_MAX
                return
            to = self._candidates[self._turn % len(self._candidates)]
            self._turn += 1
        self._numbers += 1
        job.attempt, job.asked = self._numbers, to
        job.attempt_until = until + MARGIN_S
        session_id = job.session.session_id if job.session is not None else NO_SESSION
        sequence = job.session.sequence if job.session is not None else 0
        request = ProposeRequest(session_id, sequence, job.entry)
        self._attempts.append(Attempt(self._numbers, to, request, until))

    def _give_up_attempt(self, job: _Job, *, arrived: bool) -> None:
        job.may_have_arrived = job.may_have_arrived or arrived
        job.attempt, job.asked = None, None
        job.attempt_until = ASLEEP

    def _retry_later(self, now: float, job: _Job) -> None:
        pause_s = min(RETRY_S_MAX, RETRY_S_MIN * 2.0 ** min(job.tries, 10))
        job.tries += 1
        job.next_at = now + pause_s * (0.5 + self._rng.random())

    def _pass_on(self, now: float, job: _Job, leader: NodeId | None, reason: str) -> None:
        """Whom we asked does not lead, or does and cannot now."""
        asked = job.asked
        self._give_up_attempt(job, arrived=False)
        job.reason = reason
        if leader is not None and leader != asked:
            self._leader = leader
            if job.tries < 3:  # two that name each other must not make us run in a circle
                job.tries += 1
                job.next_at = now
                return
        elif leader is None and asked == self._leader:
            self._leader = None
        self._retry_later(now, job)

    # --- ends -------------------------------------------------------------------------------------------------

    def _take_result(self, now: float, job: _Job, index: int, result: Result) -> None:
        if job.token is None:
            self._take_session(now, job, result)
            return
        if isinstance(result, Refused) and result.code in (SESSION_UNKNOWN, SESSION_SEQUENCE):
            self._drop_session(job)
            if job.may_have_arrived:
                self._end(job, Unknown("the ledger has forgotten the session of this request"))
                return
            self._jobs.remove(job)
            self._give_up_attempt(job, arrived=False)
            self._waiting.appendleft(job)
            return
        self._end(job, Decided(index, result))

    def _take_session(self, now: float, job: _Job, result: Result) -> None:
        if isinstance(result, Done):
            self._jobs.remove(job)
            self._opening -= 1
            self._sessions += 1
            self._free.append(_Session(bytes.fromhex(result.detail)))
            return
        # Only a trusted member may propose; it may become one.
        self._give_up_attempt(job, arrived=False)
        job.reason = result.what
        for waiting in self._waiting:
            waiting.reason = result.what
        self._retry_later(now, job)

    def _expire(self, job: _Job) -> None:
        if job.may_have_arrived or job.attempt is not None:
            self._end(job, Unknown(job.reason if job.attempt is None else "the leader does not answer"))
        else:
            self._end(job, Expired(self._leader, self._reason_of(job)))

    def _reason_of(self, job: _Job) -> str:
        """Why it could not be sent; for one that waits for a session, why none was opened."""
        opening = next((other for other in self._jobs if other.token is None), None)
        return opening.reason if job in self._waiting and opening is not None else job.reason

    def _end(self, job: _Job, outcome: Outcome) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        else:
            self._waiting.remove(job)
        if job.token is None:
            self._opening -= 1
            return
        if job.session is not None:
            if isinstance(outcome, Decided):
                self._free.append(job.session)
                job.session = None
            elif isinstance(outcome, Expired | Rejected):
                job.session.sequence -= 1  # this number was never heard of
                self._free.append(job.session)
                job.session = None
            else:
                self._drop_session(job)
        self._finished.append(Finished(job.token, outcome))

    def _drop_session(self, job: _Job) -> None:
        if job.session is not None:
            job.session = None
            self._sessions -= 1

    def _job_of(self, number: int) -> _Job | None:
        return next((job for job in self._jobs if job.attempt == number), None)
