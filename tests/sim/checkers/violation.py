"""What a checker raises."""

from __future__ import annotations


class Violation(AssertionError):
    """Something that must never happen, happened; `checker` says whose claim was broken."""

    def __init__(self, checker: str, what: str) -> None:
        super().__init__(f"{checker}: {what}")
        self.checker = checker
        self.what = what
