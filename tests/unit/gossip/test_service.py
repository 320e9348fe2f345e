"""The shell with real sockets, links and keys on the loopback, under a quick profile; every wait is on an event."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from gossip.events import GossipEvent, Lagged, MemberAlive, MemberDown, MemberLeft, MemberSuspected, RecordChanged
from gossip.members import MemberState
from gossip.profiles import LOCAL
from gossip.seal import GossipKey, KeyRing
from gossip.service import Gossip, GossipConfig
from gossip.watchers import Watchers
from tests.unit.gossip.network import a_record
from tests.unit.mesh.nodes import Node, make_nodes, running

QUICK = replace(
    LOCAL,
    probe_interval_s=0.2,
    probe_timeout_s=0.1,
    urgent_round_s=0.15,
    gossip_interval_s=0.02,
    lost_probe_interval_s=0.2,
    push_pull_interval_s=1.0,
    unknown_down_s=5.0,
    awareness_start=0,
)
KEYS = KeyRing((GossipKey(1, b"k" * 32),))


@dataclass
class Gossiper:
    node: Node
    gossip: Gossip
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, udp: socket.socket, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope, udp:
            await self.gossip.run(udp, task_status=task_status)

    def stop(self) -> None:
        """As a kill: no goodbye, and the kernel closes the links."""
        self.scope.cancel()
        self.node.stop()


@asynccontextmanager
async def gossiping(folder: Path, count: int) -> AsyncIterator[list[Gossiper]]:
    nodes = make_nodes(folder, count)
    gossipers: list[Gossiper] = []
    for node in nodes:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        gossip = Gossip(
            GossipConfig(f"127.0.0.1:{udp.getsockname()[1]}", QUICK),
            node.identity,
            boot_counter=1,
            boot_nonce=node.boot_nonce,
            keyring=KEYS,
            peers=node.peers,
            rng=random.Random(node.id),
            clock=lambda: time.time_ns() // 1_000_000,
        )
        gossip.register(node.server)
        gossipers.append(Gossiper(node, gossip))
        gossipers[-1].udp = udp  # type: ignore[attr-defined]
    async with running(nodes) as nursery:
        for gossiper in gossipers:
            gossiper.gossip.set_members({node.id: node.identity.public_key for node in nodes})
            for other in gossipers:
                address = f"127.0.0.1:{other.udp.getsockname()[1]}"  # type: ignore[attr-defined]
                gossiper.gossip.set_addresses(other.node.id, (address,))
            await nursery.start(gossiper.run, gossiper.udp)  # type: ignore[attr-defined]
        yield gossipers
        nursery.cancel_scope.cancel()


async def until(observer: Gossiper, condition: Callable[[], bool]) -> None:
    """Wait for events until the condition holds."""
    with observer.gossip.watch() as events, trio.fail_after(30):
        while not condition():
            await events.receive()


async def all_alive(gossipers: list[Gossiper]) -> None:
    for observer in gossipers:
        await until(
            observer,
            lambda o=observer: all(v.state is MemberState.ALIVE for v in o.gossip.view().values()),  # type: ignore[misc]
        )


async def test_a_killed_node_is_seen_down_and_the_story_names_accuser_and_probes(tmp_path: Path) -> None:
    async with gossiping(tmp_path, 3) as gossipers:
        await all_alive(gossipers)
        observer, _, victim = gossipers
        with observer.gossip.watch() as events:
            victim.stop()
            seen: list[GossipEvent] = []
            with trio.fail_after(30):
                while not any(isinstance(event, MemberDown) for event in seen):
                    seen.append(await events.receive())
        assert any(isinstance(event, MemberSuspected) for event in seen)
        assert observer.gossip.view()[victim.node.id].state is MemberState.DOWN
        story = observer.gossip.why(victim.node.id)
        kinds = [line.kind for line in story if line.kind in ("alive", "suspected", "down")]
        assert kinds[-2:] == ["suspected", "down"]
        suspected = next(line for line in reversed(story) if line.kind == "suspected")
        assert suspected.accuser in {gossiper.node.id for gossiper in gossipers[:2]}
        assert "no ack in" in suspected.probes


async def test_a_published_record_reaches_the_others_signed_and_numbered(tmp_path: Path) -> None:
    async with gossiping(tmp_path, 3) as gossipers:
        await all_alive(gossipers)
        teller, hearer = gossipers[0], gossipers[2]
        with hearer.gossip.watch() as events, trio.fail_after(30):
            teller.gossip.publish(a_record("x", node_id=teller.node.id, name="teller"))
            async for event in events:
                if isinstance(event, RecordChanged) and event.node_id == teller.node.id:
                    break
        record = hearer.gossip.view()[teller.node.id].record
        assert record is not None
        assert (record.name, record.boot_counter, record.version) == ("teller", 1, 1)


async def test_leaving_is_told_before_leave_returns(tmp_path: Path) -> None:
    async with gossiping(tmp_path, 3) as gossipers:
        await all_alive(gossipers)
        leaver = gossipers[1]
        with gossipers[0].gossip.watch() as events, trio.fail_after(30):
            await leaver.gossip.leave(trio.current_time() + 10)
            leaver.stop()
            async for event in events:
                assert not isinstance(event, MemberSuspected | MemberDown)
                if isinstance(event, MemberLeft):
                    break


async def test_members_under_different_keys_still_meet_over_links(tmp_path: Path) -> None:
    """A key that has not reached everybody yet must not look like deaths."""
    async with gossiping(tmp_path, 3) as gossipers:
        await all_alive(gossipers)
        odd = gossipers[0]
        odd.gossip.set_keyring(KeyRing((GossipKey(9, b"o" * 32),)))
        with odd.gossip.watch() as events, trio.move_on_after(2):
            async for event in events:
                assert not isinstance(event, MemberDown)
        assert gossipers[1].gossip.statistics().seal.refused_key > 0


async def test_a_slow_watcher_gets_one_lagged_and_then_goes_on() -> None:
    watchers = Watchers(queue_max=2)
    with watchers.watch() as events:
        for incarnation in range(5):
            watchers.tell(MemberAlive(a_record("x").node_id, incarnation))
        first = [events.receive_nowait() for _ in range(2)]
        watchers.tell(MemberAlive(a_record("x").node_id, 9))
        rest = [events.receive_nowait() for _ in range(2)]
    assert [event.incarnation for event in first if isinstance(event, MemberAlive)] == [0, 1]
    assert isinstance(rest[0], Lagged)
    assert isinstance(rest[1], MemberAlive) and rest[1].incarnation == 9
