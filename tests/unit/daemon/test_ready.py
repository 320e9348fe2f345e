"""The starter hears once that the node serves."""

from __future__ import annotations

import json
import os

import pytest

from daemon.ready import Ready
from mesh.names import NodeId


def test_a_starter_hears_of_the_first_life_alone_and_a_reused_descriptor_gets_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    ready = Ready(writer)
    ready.tell(NodeId("n"), {"mesh": "127.0.0.1:1"}, ["port 1 is taken"])
    with os.fdopen(reader) as told:
        assert json.loads(told.read())["notices"] == ["port 1 is taken"]
    other_reader, other_writer = os.pipe()
    assert writer in (other_reader, other_writer)
    ready.tell(NodeId("n"), {"mesh": "127.0.0.1:1"}, ["again"])
    os.close(other_writer)
    with os.fdopen(other_reader) as untouched:
        assert untouched.read() == ""
    assert capfd.readouterr().err == "again\nready\n"


def test_a_starter_that_did_not_wait_does_not_end_the_node() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Ready(writer).tell(NodeId("n"), {}, [])
