"""Records: numbering, rate, size, and whose are believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip.record import (
    RECORD,
    RECORD_BYTES_MAX,
    SIGNING_DOMAIN,
    RecordBook,
    ReplicaHealth,
    ReplicaReport,
    SignedRecord,
    fitted,
)
from mesh.errors import ExhaustedError
from tests.unit.gossip.network import a_record, id_of, public_key, sign_as, verify


def a_book(name: str, *, boot: int = 1) -> RecordBook:
    return RecordBook(id_of(name), boot_counter=boot, slow_facts_s=10.0, sign=sign_as(name), verify=verify)


def signed(name: str, boot: int, version: int, *, signer: str | None = None, **changes: object) -> SignedRecord:
    encoded = RECORD.encode(a_record(name, boot_counter=boot, version=version, **changes))
    return SignedRecord(id_of(name), boot, version, encoded, sign_as(signer or name)(SIGNING_DOMAIN, encoded))


def a_replica(number: int) -> ReplicaReport:
    return ReplicaReport(f"{number:026}", "web", 1, 12, ReplicaHealth.HEALTHY, 40000, 0, "d" * 120)


def test_the_first_record_is_issued_at_once_and_numbered() -> None:
    book = a_book("a")
    book.publish(5.0, a_record("a"))
    assert book.next_deadline() == 5.0
    issued = book.issue(5.0)
    assert issued is not None and (issued.boot_counter, issued.version) == (1, 1)
    assert verify(public_key("a"), SIGNING_DOMAIN, issued.record, issued.signature)
    assert book.issue(5.0) is None


def test_an_unchanged_record_is_not_issued_again() -> None:
    book = a_book("a")
    book.publish(5.0, a_record("a"))
    book.issue(5.0)
    book.publish(6.0, a_record("a", version=77))
    assert book.issue(100.0) is None


def test_load_alone_waits_its_time_and_anything_else_takes_it_along() -> None:
    book = a_book("a")
    book.publish(0.0, a_record("a"))
    book.issue(0.0)
    book.publish(1.0, a_record("a", load_percent=50))
    assert book.issue(9.9) is None
    assert book.next_deadline() == 10.0
    book.publish(2.0, a_record("a", load_percent=60, leader="b"))
    issued = book.issue(2.0)
    assert issued is not None
    assert RECORD.decode(issued.record).load_percent == 60  # type: ignore[attr-defined]


def test_a_newer_record_of_another_is_kept_and_an_older_one_is_not() -> None:
    book = a_book("a")
    assert book.accept(1.0, signed("b", 1, 2), public_key("b"))
    assert not book.accept(2.0, signed("b", 1, 1), public_key("b"))
    assert not book.accept(2.0, signed("b", 1, 2), public_key("b"))
    assert book.accept(3.0, signed("b", 2, 1), public_key("b"))
    held = book.get(id_of("b"))
    assert held is not None and (held.record.boot_counter, held.heard_at) == (2, 3.0)


@pytest.mark.parametrize(
    "forged",
    [
        signed("b", 1, 5, signer="c"),
        replace(signed("b", 1, 4), version=9),
        replace(signed("c", 1, 5), node_id=id_of("b")),
        replace(signed("b", 1, 5), record=b"junk", signature=sign_as("b")(SIGNING_DOMAIN, b"junk")),
    ],
)
def test_a_record_that_its_owner_did_not_sign_so_is_refused(forged: SignedRecord) -> None:
    book = a_book("a")
    assert not book.accept(0.0, forged, public_key("b"))
    assert book.get(id_of("b")) is None
    assert book.refused == 1


def test_a_forgotten_life_is_outnumbered() -> None:
    book = a_book("a", boot=1)
    book.publish(0.0, a_record("a"))
    book.issue(0.0)
    assert not book.accept(1.0, signed("a", 9, 3), public_key("a"))
    issued = book.issue(1.0)
    assert issued is not None and (issued.boot_counter, issued.version) == (9, 4)


def test_details_and_then_bundles_make_room() -> None:
    record = a_record("a", replicas=tuple(map(a_replica, range(40))), bundles=("b" * 16,) * 60)
    small = fitted(record)
    assert len(RECORD.encode(small)) <= RECORD_BYTES_MAX
    assert len(small.replicas) == 40
    assert not any(report.detail for report in small.replicas)


def test_too_many_replicas_are_refused_by_name_and_the_last_record_stands() -> None:
    book = a_book("a")
    book.publish(0.0, a_record("a"))
    book.issue(0.0)
    with pytest.raises(ExhaustedError) as caught:
        book.publish(1.0, a_record("a", replicas=tuple(map(a_replica, range(100)))))
    assert caught.value.stable_code == "limit.record"
    assert book.issue(100.0) is None
