"""A few real nodes on the loopback, for tests of links and calls: identities, one trust store each, real sockets."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from mesh.hello import Hello
from mesh.identity import Identity, create_identity
from mesh.last_word import Reason
from mesh.names import MeshId, NodeId
from mesh.peers import LinkClosed, LinkEvent, LinkOpened, Peers
from mesh.rpc import RpcServer
from mesh.trust import TrustedPeer, TrustStore

MESH = MeshId("a" * 26)


@dataclass
class Node:
    """One node's mesh part; `start` serves it until the nursery's end or `stop`."""

    identity: Identity
    mesh_id: MeshId = MESH
    boot_counter: int = 1
    trust: TrustStore = field(default_factory=TrustStore)
    server: RpcServer = field(default_factory=RpcServer)
    strangers: int = 0
    address: str = ""
    last_words: list[tuple[NodeId, Reason]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.boot_nonce = secrets.token_bytes(8)
        self.peers = Peers(
            self.identity,
            self.trust,
            self.server,
            self.hello,
            rng=random.Random(1),
            on_stranger=self.note_stranger,
            on_last_word=lambda node_id, word: self.last_words.append((node_id, word.reason)),
        )
        self.scope = trio.CancelScope()

    @property
    def id(self) -> NodeId:
        return self.identity.node_id

    def note_stranger(self) -> None:
        self.strangers += 1

    def hello(self) -> Hello:
        return Hello(
            self.mesh_id,
            self.id,
            1,
            7,
            b"s" * 16,
            self.boot_counter,
            self.boot_nonce,
            "0",
            1,
            (self.address,),
        )

    def member(self, *, trusted: bool = True, voter: bool = True) -> TrustedPeer:
        identity = self.identity
        return TrustedPeer(
            identity.node_id, identity.public_key, identity.certificate, identity.node_id[:6], trusted, voter
        )

    def knows(self, *members: TrustedPeer, removed: Iterable[bytes] = ()) -> None:
        self.trust.update(members, removed)
        self.peers.trust_changed()

    async def start(self, nursery: trio.Nursery) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        self.scope = trio.CancelScope()
        await nursery.start(self._run, listeners)

    async def _run(self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            await self.peers.run(listeners, task_status=task_status)

    def stop(self) -> None:
        self.scope.cancel()


def make_nodes(folder: Path, count: int) -> list[Node]:
    """Nodes in the order of their ids."""
    made = [Node(create_identity(folder / str(number))) for number in range(count)]
    return sorted(made, key=lambda node: node.id)


@asynccontextmanager
async def running(nodes: Iterable[Node]) -> AsyncIterator[trio.Nursery]:
    """The nodes serving, each knowing all as members and where they listen."""
    nodes = list(nodes)
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await node.start(nursery)
        for node in nodes:
            node.knows(*(other.member() for other in nodes))
            for other in nodes:
                node.peers.set_addresses(other.id, (other.address,))
        yield nursery
        nursery.cancel_scope.cancel()


async def next_event(channel: trio.MemoryReceiveChannel[LinkEvent]) -> LinkEvent:
    with trio.fail_after(20):
        return await channel.receive()


async def wait_linked(node: Node, other: Node) -> None:
    with node.peers.watch_links() as links, trio.fail_after(20):
        async for event in links:
            if isinstance(event, LinkOpened) and event.node_id == other.id:
                return


async def wait_unlinked(node: Node, other: Node) -> LinkClosed:
    with node.peers.watch_links() as links, trio.fail_after(20):
        async for event in links:
            if isinstance(event, LinkClosed) and event.node_id == other.id:
                return event
    raise AssertionError("the watch ended")


def soon(seconds: float = 20.0) -> float:
    return trio.current_time() + seconds
