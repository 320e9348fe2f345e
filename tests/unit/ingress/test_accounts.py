"""One account a request; what failed is remembered longer than what went well."""

from __future__ import annotations

from scheduler.ingress.accounts import Accounts, End, RequestRecord


def record(end: End, *, status: int = 200, tries: int = 1, retries: int = 0) -> RequestRecord:
    return RequestRecord(0, "web", "GET", "web-1", None, status, 10, tries, retries, 0.1, end)


def test_failures_outlive_a_flood_of_successes() -> None:
    accounts = Accounts(recent_max=10, failed_max=5)
    accounts.begin()
    accounts.end(record(End.NO_ANSWER, status=502))
    for _ in range(100):
        accounts.begin()
        accounts.end(record(End.SERVED))
    assert len(accounts.recent()) == 10
    assert [each.end for each in accounts.failed()] == [End.NO_ANSWER]


def test_every_request_is_counted_once_and_by_its_end() -> None:
    accounts = Accounts()
    for end in (End.SERVED, End.SERVED, End.BUSY):
        accounts.begin()
        accounts.end(record(end, tries=3, retries=1))
    accounts.begin()
    figures = accounts.statistics()
    assert (figures.requests, figures.in_flight, figures.retries, figures.connect_failures) == (3, 1, 3, 3)
    assert figures.ends == (("busy", 1), ("served", 2))
