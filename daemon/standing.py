"""Whether this very start of this node still counts: registering it, and noticing that another copy took its place.

The ledger knows one memory and one start of each node (rule T3). Three things may go wrong, and each is told in words:
the home is an old copy, the disk lost its log, or another copy of this home runs.
"""

from __future__ import annotations

from enum import Enum

import trio

from consensus.boot import Doubt, Start
from consensus.ledger import Ledger
from consensus.ledger_entries import ChangeMember, RegisterBoot
from consensus.records import BootMark, Member, MemberStatus
from daemon.home import Home, write_atomically
from daemon.pulse import Pulse
from daemon.version import FEATURE_LEVEL
from mesh.errors import FencedError, OutcomeUnknown, RefusedError, UnavailableError
from mesh.names import NodeId

PROPOSE_S = 10.0
RETRY_AFTER_S = 2.0


class Aside(Enum):
    """What of a home is moved to lost+found when its memory does not count any more; the identity stays."""

    LOG = "log"
    SNAPSHOTS = "snapshots"
    BOOT = "boot"


class StartOver(Exception):
    """This home's memory does not count: it is moved aside, and the node begins as a learner.

    Args:
        reason: Why, for a person.
        is_given_up: It is the history of an epoch that the mesh has gone on without (rule T5).
    """

    def __init__(self, reason: str, *, is_given_up: bool = False) -> None:
        super().__init__(reason)
        self.is_given_up = is_given_up


class Standing:
    """Whether the ledger still knows this start, told from this node's own copy of it.

    A copy that lags names an earlier start of ours, or of a home that ours was copied from; so nothing but a removal is
    judged before the copy has named this very start. From then on, any other name in its place is a later start.
    """

    def __init__(self, boot: BootMark) -> None:
        self._boot = boot
        self.named = trio.Event()

    def judge(self, member: Member | None) -> FencedError | None:
        """Why this start has to end, or None."""
        if member is None:
            return None
        if member.status is MemberStatus.REMOVED:
            return removed()
        if member.boot == self._boot:
            self.named.set()
            return None
        return replaced("the ledger") if self.named.is_set() else None


def replaced(witness: str) -> FencedError:
    """What a start is told whose place was taken by a copy of its home."""
    return FencedError(
        "another copy of this home has taken its place",
        why=f"by the word of {witness} it was started later",
        hint="one home, one machine: remove the copy, or give it an identity of its own by joining anew",
        code="fenced.clone",
    )


def beside_another(witness: str) -> FencedError:
    """What a start is told that is not known yet, when the one that is known answers beside it."""
    return FencedError(
        "another copy of this home is running",
        why=f"{witness} hears it at this moment, and it was there first",
        hint="one home, one machine: stop the other one first, or join anew with another --home",
        code="fenced.clone",
    )


def removed() -> FencedError:
    """What a node is told whose key the mesh does not take any more."""
    return FencedError(
        "this node was removed from the mesh",
        why="a removed key never comes back",
        hint="join anew with another --home, or remove this one first",
        code="fenced.removed",
    )


def check_not_removed(home: Home) -> None:
    """Raises FencedError if an earlier start learnt that it was removed: nobody would tell this one any more."""
    if home.removed.exists():
        raise removed()


def keep_in_mind(home: Home, error: FencedError) -> None:
    """A removed node remembers it; its peers have closed their links and will not say it again."""
    if error.stable_code == "fenced.removed":
        write_atomically(home.removed, b"")


async def register(
    ledger: Ledger, node_id: NodeId, start: Start, *, new_store: bool, doubt: Doubt, pulse: Pulse
) -> None:
    """Tell the ledger about this start, as soon as there is a quorum to tell.

    Raises:
        StartOver: The home is an old copy; its memory has to be moved aside.
        FencedError: Another copy of this home runs, or the node was removed.
    """
    while True:
        entry = RegisterBoot(node_id, start.boot, new_store, start.follows, doubt.doubted)
        try:
            await _insist(ledger, entry, pulse)
        except RefusedError as error:
            if entry.copied and not doubt.doubted:
                continue  # meanwhile its owner has opened an epoch from this very memory
            raise _what_to_do(error, is_alone=ledger.quorum().voters == (node_id,)) from error
        else:
            return


def _what_to_do(error: RefusedError, *, is_alone: bool) -> StartOver | FencedError:
    """What a refused start does next: it gives up its memory only if others hold what it is to learn."""
    if error.stable_code in ("fenced.old", "fenced.store"):
        if not is_alone:
            return StartOver(f"{error.what} ({error.why})")
        why, hint = "the log and the counter of starts are not of the same moment", "restore all of this home at once"
        return FencedError(error.what, why=why, hint=hint, code="fenced.torn")
    return FencedError(error.what, why=error.why, hint=error.hint, code=error.stable_code)


async def announce_level(ledger: Ledger, node_id: NodeId, pulse: Pulse) -> None:
    """Tell the ledger what this program knows, if that is news (rule T6)."""
    member = ledger.state.members.get(node_id)
    if member is not None and member.feature_level != FEATURE_LEVEL:
        level = ChangeMember(node_id, None, None, None, None, None, None, None, FEATURE_LEVEL)
        await _insist(ledger, level, pulse)


async def _insist(ledger: Ledger, entry: RegisterBoot | ChangeMember, pulse: Pulse) -> None:
    """Propose until it is in; applied twice, it says the same."""
    while True:
        seen = pulse.count
        try:
            await ledger.propose(entry, deadline=trio.current_time() + PROPOSE_S)
        except (UnavailableError, OutcomeUnknown):
            # No quorum now. Whatever changes may have brought one; the time limit is for what changes nothing here.
            with trio.move_on_after(RETRY_AFTER_S):
                await pulse.wait_after(seen)
        else:
            return


def aside_hint(home: Home, *, has_others: bool) -> str:
    """What to do about a memory that is damaged: nothing is cut or thrown away behind its owner's back (fault D4)."""
    if not has_others:
        return f"no other node of this mesh is known here: restore {home.root} from a backup, or choose another --home"
    parts = ", ".join(part.value for part in Aside)
    return f"nothing was cut: move {parts} out of {home.root} and start again; the other nodes teach it everything anew"


def move_aside(home: Home, stamp: str) -> str:
    """Move the memory to lost+found/STAMP; nothing is ever deleted there. Returns the folder."""
    folder = home.lost_and_found / stamp
    folder.mkdir(mode=0o700, parents=True)
    for part in Aside:
        path = home.root / part.value
        if path.exists():
            path.rename(folder / part.value)
    home.prepare()
    return str(folder)
