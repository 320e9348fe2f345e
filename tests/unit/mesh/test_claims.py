"""What a node may say of itself: one form for names, zones, labels and addresses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.apply_members import free_name
from consensus.ledger_facts import Facts
from mesh.claims import (
    LABELS_MAX,
    NAME_CHARS_MAX,
    check_address,
    check_labels,
    check_name,
    check_text,
    is_host,
    labels_of,
)
from mesh.errors import UsageError
from mesh.names import NodeId
from mesh.transports.tcp import split_address


@pytest.mark.parametrize("name", ["a", "n1", "kitchen-2", "x" * 40, "0"])
def test_what_can_be_a_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a-", "a.b", "a b", "a/b", "..", "x" * 41, "ü", "a\n", "a\x1b[2J", "$(id)", "a" * 26, "a_b"]
)
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


@pytest.mark.parametrize("text", ["x" * 64, "\n", "a\x00", "\u202e", "\x1b]0;owned\x07"])
def test_what_cannot_be_shown(text: str) -> None:
    with pytest.raises(UsageError):
        check_text("zone", text)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:6700", "[::1]:1", "[2001:db8::1]:65535", "node.example:80", "node.example.:80", "a_b.example:1", "x:1"],
)
def test_an_address_that_can_be_dialled(address: str) -> None:
    assert check_address(address) == address
    host, port = split_address(address)
    assert is_host(host) or is_host(f"[{host}]")
    assert port


@pytest.mark.parametrize(
    "address",
    [
        "",
        "x",
        ":1",
        "x:",
        "x:0",
        "x:65536",
        "x:" + "1" * 5000,
        "x:²",
        "a..b:1",
        "x" * 64 + ".example:1",
        ".".join(["x" * 60] * 5) + ":1",
        "::1:1",
        "[127.0.0.1]:1",
        "[x]:1",
        "a\0b:1",
        "a b:1",
        "http://x:1",
        "-x:1",
        "x/../y:1",
        "ü.example:1",
    ],
)
def test_an_address_that_no_resolver_takes(address: str) -> None:
    with pytest.raises(UsageError):
        check_address(address)


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_told_so(text: str) -> None:
    try:
        check_address(text)
    except UsageError as error:
        assert len(str(error)) < 1000
        return
    host, _ = split_address(text)
    host.encode("idna")  # what a resolver does first


def test_labels_are_few_short_and_given_once() -> None:
    assert labels_of(["disk=ssd", "gpu="]) == {"disk": "ssd", "gpu": ""}
    for texts in (["disk"], ["=x"], ["a b=x"], ["a=" + "x" * 64], ["a=\x1b"], ["x" * 64 + "=1"]):
        with pytest.raises(UsageError):
            labels_of(texts)
    with pytest.raises(UsageError):
        check_labels([(f"k{number}", "") for number in range(LABELS_MAX + 1)])
    with pytest.raises(UsageError):
        check_labels([("a", "1"), ("a", "2")])


def test_a_name_that_is_taken_gets_a_number_and_is_still_a_name() -> None:
    long = "x" * NAME_CHARS_MAX
    facts = Facts()
    names = []
    for number in range(12):
        name = free_name(facts, long, NodeId(f"node{number}"))
        facts.members[NodeId(f"node{number}")] = SimpleNamespace(name=name, node_id=NodeId(f"node{number}"))  # type: ignore[assignment]
        names.append(check_name(name))
    assert len(set(names)) == 12
    assert names[1] == "x" * (NAME_CHARS_MAX - 2) + "-2"
