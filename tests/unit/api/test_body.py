"""A request's JSON against its operation's schema: what fits passes, and each misfit names its field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.api.app import OPERATIONS
from daemon.api.auth import SCOPES
from daemon.api.body import INTEGER_MAX, ITEMS_MAX, check
from daemon.api.operations import openapi, schema
from mesh.errors import ExhaustedError, FreecloudError, UsageError

SCHEMA = schema(("name",), name="string", count="integer", on="boolean", words="string[]")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def test_what_fits_passes() -> None:
    check({"name": "x"}, SCHEMA)
    check({"name": "x", "count": -3, "on": False, "words": ["a", ""]}, SCHEMA)
    check({"name": "x", "count": None, "words": None}, SCHEMA)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": 1}, "name"),
        ({"name": "x", "other": 1}, "other"),
        ({"name": "x", "count": True}, "count"),
        ({"name": "x", "count": 1.0}, "count"),
        ({"name": "x", "count": "1"}, "count"),
        ({"name": "x", "count": INTEGER_MAX + 1}, "count"),
        ({"name": "x", "on": 1}, "on"),
        ({"name": "x", "words": "a"}, "words"),
        ({"name": "x", "words": ["a", 1]}, "words"),
        ({"name": "\ud800"}, "name"),
    ],
)
def test_what_does_not_fit_is_told_by_its_field(value: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as told:
        check(value, SCHEMA)
    assert field in str(told.value)


def test_a_list_has_a_limit() -> None:
    with pytest.raises(ExhaustedError) as told:
        check({"name": "x", "words": ["a"] * (ITEMS_MAX + 1)}, SCHEMA)
    assert told.value.stable_code == "limit.body"


@given(st.sampled_from([op.body for op in OPERATIONS if op.body is not None]), st.data())
def test_any_object_fits_an_operation_or_is_told_why_not(wanted: dict[str, Any], data: st.DataObject) -> None:
    keys = st.sampled_from(sorted(wanted["properties"])) | st.text(max_size=4)
    try:
        check(data.draw(st.dictionaries(keys, JSON, max_size=5)), wanted)
    except FreecloudError as error:
        assert isinstance(error, UsageError | ExhaustedError)


def test_every_operation_has_a_known_scope_and_what_changes_something_needs_more_than_reading() -> None:
    for operation in OPERATIONS:
        assert operation.scope in SCOPES, operation.path
        if operation.method != "GET":
            assert operation.scope != "read", f"{operation.method} {operation.path}"
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


def test_the_document_describes_every_operation_once() -> None:
    described = openapi(OPERATIONS, "1")
    ids = [entry["operationId"] for methods in described["paths"].values() for entry in methods.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)
