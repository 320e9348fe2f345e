"""What a proposer and the leader say to each other, and how a request becomes what is appended.

Three answers keep apart what the proposer has to keep apart: *applied*, *nothing happened*, *it may have happened*.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.ledger_entries import LEDGER, Entry, Proposal, Result
from consensus.raft.outputs import NotAllowed, Refusal
from mesh.errors import ProtocolError, UsageError
from mesh.names import NodeId

NO_SESSION = b""


@LEDGER.message("propose.request")
@dataclass(frozen=True, slots=True)
class ProposeRequest:
    """Apply this in this session, once. The same (session, sequence) always carries the same entry."""

    session_id: bytes
    sequence: int
    entry: Entry


@LEDGER.message("propose.relayed")
@dataclass(frozen=True, slots=True)
class RelayedRequest:
    """Bring this to the leader for the one that asks, or take it for the proposer from the one that brings it."""

    proposer: NodeId
    request: ProposeRequest


@LEDGER.message("propose.applied")
@dataclass(frozen=True, slots=True)
class Applied:
    index: int
    result: Result


@LEDGER.message("propose.not-taken")
@dataclass(frozen=True, slots=True)
class NotTaken:
    """Nothing happened. `leader` is who might take it; `for_good`: nobody will take it as it is."""

    leader: NodeId | None
    reason: str
    for_good: bool


@LEDGER.message("propose.lost")
@dataclass(frozen=True, slots=True)
class Lost:
    """It was appended, and leadership ended before it was applied: it may or may not have happened."""


Answer = Applied | NotTaken | Lost


@LEDGER.message("propose.answer")
@dataclass(frozen=True, slots=True)
class ProposeAnswer:
    answer: Answer


def proposal_payload(proposer: NodeId, request: ProposeRequest, time_ms: int) -> bytes:
    """What the leader appends for a request; the time is its own (pitfall 28)."""
    return LEDGER.encode(Proposal(proposer, request.session_id, request.sequence, time_ms, request.entry))


def check_entry(entry: Entry) -> None:
    """What is proposed must be readable again: an entry that no replica can decode would stop every one of them.

    Raises:
        UsageError: A number, text or list that is larger than what may be written, or text that is no Unicode.
    """
    try:
        LEDGER.decode(LEDGER.encode(entry))
    except (OverflowError, ValueError, ProtocolError) as error:
        raise UsageError("this cannot be written into the ledger", why=str(error), code="entry.unwritable") from error


def not_taken(refusal: Refusal) -> NotTaken:
    """How a replica's "no" travels."""
    return NotTaken(refusal.leader, refusal.reason, isinstance(refusal, NotAllowed))


def settled_answer(index: int, result: bytes | None) -> Answer:
    """How a proposal's end travels."""
    return Lost() if result is None else Applied(index, LEDGER.decode(result))
