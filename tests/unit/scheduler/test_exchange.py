"""Sources between real nodes: fetched from whoever has them, and handed to a second node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh.errors import UnavailableError
from mesh.names import NodeId
from scheduler.bundles import BundleStore
from scheduler.exchange import BundleExchange
from tests.unit.mesh.nodes import Node, make_nodes, running, soon
from tests.unit.scheduler.test_bundles import archive

CONTENT = bytes(range(256)) * 2000


@dataclass
class Holder:
    node: Node
    store: BundleStore
    exchange: BundleExchange


async def holders(folder: Path, nodes: list[Node], known: dict[str, list[NodeId]]) -> list[Holder]:
    made = []
    for number, node in enumerate(nodes):
        store = BundleStore(folder / f"bundles{number}", bytes([number]) * 32)
        await store.open_store()
        made.append(
            Holder(
                node, store, BundleExchange(store, node.peers, node.server, lambda bundle: known.get(bundle, []))
            )
        )
    return made


async def content() -> AsyncIterator[bytes]:
    yield CONTENT


async def test_a_source_is_fetched_from_the_first_holder_that_has_it(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 3)
    first, second, third = await holders(tmp_path, nodes, {})
    bundle = (await third.store.put(content())).bundle
    async with running(nodes):
        await first.exchange.ensure(bundle, [second.node.id, third.node.id], deadline=soon())
        assert b"".join([piece async for piece in first.store.read(bundle)]) == CONTENT
        with pytest.raises(UnavailableError):
            await first.exchange.ensure("0" * 64, [second.node.id], deadline=soon())
        with pytest.raises(UnavailableError, match="no node says that it has it"):
            await first.exchange.ensure("0" * 64, [], deadline=soon())


async def test_a_second_copy_is_durable_there_when_push_returns(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 3)
    first, second, third = await holders(tmp_path, nodes, {})
    bundle = (await first.store.put(content())).bundle
    async with running(nodes):
        kept = await first.exchange.push(bundle, [second.node.id, third.node.id], 1, deadline=soon())
    assert kept == (second.node.id,)
    assert second.store.has(bundle)
    assert not third.store.has(bundle)


async def test_a_push_goes_on_to_the_next_when_one_cannot_be_reached(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 2)
    first, second = await holders(tmp_path, nodes, {})
    bundle = (await first.store.put(content())).bundle
    async with running(nodes):
        kept = await first.exchange.push(bundle, [NodeId("x" * 26), second.node.id], 1, deadline=soon())
    assert kept == (second.node.id,)


async def test_a_copy_that_rotted_here_is_fetched_anew(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 2)
    known: dict[str, list[NodeId]] = {}
    first, second = await holders(tmp_path, nodes, known)
    bundle = (await first.store.put(packed())).bundle
    known[bundle] = [second.node.id]
    await second.store.put(packed())
    (path,) = (tmp_path / "bundles0").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    async with running(nodes):
        await first.exchange.unpack(bundle, tmp_path / "app", deadline=soon())
    assert (tmp_path / "app/app.py").read_bytes() == b"print()"


async def packed() -> AsyncIterator[bytes]:
    yield archive()
