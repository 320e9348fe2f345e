"""The tree of errors, and what each edge makes of it.

    FreecloudError                       code, kind; what failed, why, what to do
    ├── UsageError            usage      the caller said something that cannot be meant
    │   └── ManifestError                  … in app.yaml, at a line and column
    ├── MissingError          missing    no such thing
    ├── RefusedError          refused    understood, and not allowed
    │   ├── InviteRefused                  the token: expired, used up, voided, foreign, damaged
    │   ├── FencedError                    this replica's memory is not the one the mesh knows (T3)
    │   └── UpgradeNeeded                  said by something newer than this program (T6)
    ├── UnavailableError      unavailable  not now; nothing changed
    │   ├── NoQuorumError                  the voters needed for a decision cannot be reached
    │   ├── UnreachableError               the peer cannot be reached
    │   └── DeadlineError                  the time that the caller gave has run out
    ├── OutcomeUnknown        unavailable  sent, and no answer came: it may have happened
    ├── ConflictError         conflict   the thing changed since the caller looked
    ├── ExhaustedError        exhausted  a limit was reached; the message names it
    └── FailedError           failed     it was tried and did not work
        ├── DiskError                      a durable write or read failed: the process must end
        ├── DamagedError                   stored bytes are not what was written
        └── ProtocolError                  the other side broke the protocol; its fault

Errors are raised where the cause is known and turned into a tongue (exit status, HTTP status) at the edge,
by one table each. "Does not apply" is a returned reason, never one of these.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Kind(Enum):
    """What a caller can do about an error; each edge maps these and nothing else."""

    USAGE = "usage"
    MISSING = "missing"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    CONFLICT = "conflict"
    EXHAUSTED = "exhausted"
    FAILED = "failed"


EXIT_STATUS: dict[Kind, int] = {
    Kind.USAGE: 2,
    Kind.MISSING: 3,
    Kind.REFUSED: 4,
    Kind.UNAVAILABLE: 5,
    Kind.CONFLICT: 1,
    Kind.EXHAUSTED: 1,
    Kind.FAILED: 1,
}

HTTP_STATUS: dict[Kind, int] = {
    Kind.USAGE: 400,
    Kind.MISSING: 404,
    Kind.REFUSED: 403,
    Kind.UNAVAILABLE: 503,
    Kind.CONFLICT: 409,
    Kind.EXHAUSTED: 429,
    Kind.FAILED: 500,
}


class FreecloudError(Exception):
    """An error that a person will read.

    Args:
        what: What failed, as a short sentence without a full stop.
        why: The cause, if it is known.
        hint: What to do next, if there is something to do.
        code: Overrides the class's stable code, for a reason finer than the class.
    """

    code: ClassVar[str] = "error"
    kind: ClassVar[Kind] = Kind.FAILED

    def __init__(self, what: str, *, why: str = "", hint: str = "", code: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.stable_code = code if code is not None else type(self).code

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f": {self.why}"
        if self.hint:
            text += f" ({self.hint})"
        return text


class UsageError(FreecloudError):
    code = "usage"
    kind = Kind.USAGE


class ManifestError(UsageError):
    """A mistake in app.yaml, with the place where it stands (both counted from 1)."""

    code = "manifest.invalid"

    def __init__(self, what: str, *, line: int, column: int, why: str = "", hint: str = "") -> None:
        super().__init__(what, why=why, hint=hint)
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {super().__str__()}"


class MissingError(FreecloudError):
    code = "not-found"
    kind = Kind.MISSING


class RefusedError(FreecloudError):
    code = "refused"
    kind = Kind.REFUSED


class InviteRefused(RefusedError):
    """An invite token that admits nobody; `stable_code` says which way: invite.expired, invite.used-up, …"""

    code = "invite.refused"


class FencedError(RefusedError):
    code = "fenced"


class UpgradeNeeded(RefusedError):
    code = "upgrade-needed"


class UnavailableError(FreecloudError):
    code = "unavailable"
    kind = Kind.UNAVAILABLE


class NoQuorumError(UnavailableError):
    code = "no-quorum"


class UnreachableError(UnavailableError):
    code = "unreachable"


class DeadlineError(UnavailableError):
    code = "deadline"


class OutcomeUnknown(FreecloudError):
    """The request was sent and its answer was lost: it may or may not have happened."""

    code = "outcome-unknown"
    kind = Kind.UNAVAILABLE


class ConflictError(FreecloudError):
    code = "conflict"
    kind = Kind.CONFLICT


class ExhaustedError(FreecloudError):
    code = "limit"
    kind = Kind.EXHAUSTED


class FailedError(FreecloudError):
    code = "failed"
    kind = Kind.FAILED


class DiskError(FailedError):
    code = "disk.failed"


class DamagedError(FailedError):
    code = "damaged"


class ProtocolError(FailedError):
    code = "protocol"


def error_classes() -> tuple[type[FreecloudError], ...]:
    """Every class of the tree above, root first; rebuilt errors and the documentation test enumerate it.

    What a package derives for itself travels as its nearest class here, with its own code.
    """
    found: list[type[FreecloudError]] = [FreecloudError]
    for parent in found:
        found.extend(cls for cls in parent.__subclasses__() if cls.__module__ == __name__)
    return tuple(found)


def rebuild(code: str, kind: Kind, what: str, why: str, hint: str) -> FreecloudError:
    """The error that a peer or the daemon described in these fields, as the nearest class of the tree."""
    for cls in error_classes():
        if cls.code == code and cls is not ManifestError:
            return cls(what, why=why, hint=hint)
    prefix = code.split(".", 1)[0]
    for cls in error_classes():
        if cls.kind is kind and cls.code.split(".", 1)[0] == prefix and cls is not ManifestError:
            return cls(what, why=why, hint=hint, code=code)
    for cls in error_classes()[1:]:
        if cls.kind is kind and cls is not ManifestError:
            return cls(what, why=why, hint=hint, code=code)
    return FailedError(what, why=why, hint=hint, code=code)
