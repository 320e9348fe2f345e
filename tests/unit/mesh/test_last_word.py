"""The last thing that a peer says: to removed nodes and to the second of two live starts, and to nobody else."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from mesh.errors import FreecloudError, ProtocolError, UpgradeNeeded
from mesh.last_word import WORDS, LastWord, Reason, last_word_frame, read_last_word
from mesh.names import NodeId
from mesh.twins import older_stays
from tests.unit.mesh.methods import ECHO, Text
from tests.unit.mesh.nodes import Node, make_nodes, running, soon, wait_linked, wait_unlinked
from tests.unit.mesh.test_peers import echo


async def told(node: Node, *words: tuple[NodeId, Reason]) -> None:
    with trio.fail_after(20):
        while not set(words) <= set(node.last_words):
            await trio.testing.wait_all_tasks_blocked(0.001)


async def call(caller: Node, callee: Node) -> Text:
    return await caller.peers.call(callee.id, ECHO, Text("x"), deadline=soon())


async def test_a_removed_node_is_told_on_its_links_and_whenever_it_dials(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    first.server.register(ECHO, echo)
    async with running([first, second]):
        await call(second, first)
        await wait_linked(first, second)
        first.knows(first.member(), removed=[second.identity.certificate])
        await wait_unlinked(second, first)
        await told(second, (first.id, Reason.REMOVED))
        second.last_words.clear()
        with trio.fail_after(20):
            while not second.last_words:
                with pytest.raises(FreecloudError):  # some of them before the next dial is due
                    await call(second, first)
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert second.last_words == [(first.id, Reason.REMOVED)]
        assert first.strangers == 0, "a removed member is no sign that the ledger here lags"
        assert first.peers.linked() == frozenset()


async def test_a_stranger_is_told_nothing(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    async with running([first, second]):
        first.knows(first.member())
        with pytest.raises(FreecloudError):
            await call(second, first)
        assert not second.last_words


async def start_twin(nursery: trio.Nursery, original: Node, *others: Node) -> Node:
    twin = Node(original.identity, boot_counter=original.boot_counter + 1)
    await twin.start(nursery)
    twin.knows(twin.member(), *(other.member() for other in others))
    for other in others:
        twin.peers.set_addresses(other.id, (other.address,))
    return twin


@pytest.mark.parametrize("named", ["original", "twin", "neither"])
async def test_of_two_live_starts_the_one_that_the_ledger_names_keeps_its_link(tmp_path: Path, named: str) -> None:
    first, original = make_nodes(tmp_path, 2)
    first.server.register(ECHO, echo)
    async with running([first, original]) as nursery:
        await call(original, first)
        await wait_linked(first, original)
        twin = await start_twin(nursery, original, first)
        nonce = {"original": original.boot_nonce, "twin": twin.boot_nonce, "neither": b""}[named]
        first.knows(first.member(), replace(original.member(), boot_nonce=nonce))
        stays = {"original": original, "twin": twin}.get(named) or min(original, twin, key=lambda one: one.boot_nonce)
        goes = twin if stays is original else original
        with suppress(FreecloudError):
            await call(twin, first)
        await told(goes, (first.id, Reason.TWIN if named == "neither" else Reason.REPLACED))
        with trio.fail_after(20):
            while (hello := first.peers.hello_of(original.id)) is None or hello.boot_nonce != stays.boot_nonce:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert not stays.last_words
        twin.stop()


async def test_a_start_whose_older_one_does_not_answer_is_no_twin(tmp_path: Path) -> None:
    first, original = make_nodes(tmp_path, 2)
    first.server.register(ECHO, echo)
    async with running([first, original]) as nursery:
        await call(original, first)
        await wait_linked(first, original)
        first.knows(first.member(), replace(original.member(), boot_nonce=original.boot_nonce))
        link = first.peers._links.get(original.id)
        assert link is not None
        link._questions = Deaf()  # what is asked never leaves: so it is with a process that was stopped
        twin = await start_twin(nursery, original, first)
        assert (await call(twin, first)).text.endswith("x")
        assert not twin.last_words
        twin.stop()


class Deaf(list[bytes]):
    def append(self, question: bytes) -> None:
        pass


def test_every_peer_chooses_the_same_of_two_that_the_ledger_does_not_name(tmp_path: Path) -> None:
    one, other = make_nodes(tmp_path, 2)
    assert older_stays(one.hello(), other.hello(), b"") is not older_stays(other.hello(), one.hello(), b"")


def test_a_last_word_of_a_later_version_or_of_an_enemy_is_no_crash() -> None:
    word = LastWord(Reason.TWIN, 3, 7)
    assert read_last_word(last_word_frame(word)[8:]) == word
    with pytest.raises(ProtocolError):
        read_last_word(WORDS.encode(word).replace(b"twin", b"what"))
    with pytest.raises(UpgradeNeeded):
        read_last_word(WORDS.encode(word).replace(b"link.last-word", b"link.last-wore"))
