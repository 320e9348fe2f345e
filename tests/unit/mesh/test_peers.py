"""Links between real nodes over real sockets: who gets in, who is thrown out, and which link is kept."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from mesh.errors import OutcomeUnknown, RefusedError, UnreachableError
from mesh.hello import Hello
from mesh.identity import create_identity
from mesh.link_table import newer_wins
from mesh.names import MeshId
from mesh.peers import LinkClosed, LinkOpened
from mesh.rpc import Caller
from tests.unit.mesh.methods import BEAT, ECHO, Text
from tests.unit.mesh.nodes import Node, make_nodes, next_event, running, soon, wait_linked


async def echo(caller: Caller, request: Text) -> Text:
    return Text(f"{caller.node_id[:4]} {request.text}")


async def test_a_call_dials_the_peer_and_is_answered_with_the_callers_proved_identity(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    second.server.register(ECHO, echo)
    async with running([first, second]):
        answer = await first.peers.call(second.id, ECHO, Text("hello"), deadline=soon())
        assert answer == Text(f"{first.id[:4]} hello")
        assert first.peers.linked() == {second.id}
        hello = first.peers.hello_of(second.id)
        assert hello is not None and hello.boot_nonce == second.boot_nonce


async def test_both_sides_use_the_one_link(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    for node in (first, second):
        node.server.register(ECHO, echo)
    async with running([first, second]):
        await first.peers.call(second.id, ECHO, Text("there"), deadline=soon())
        await second.peers.call(first.id, ECHO, Text("back"), deadline=soon())
        assert len(first.peers.statistics().links) == len(second.peers.statistics().links) == 1
        assert second.peers.statistics().dials == 0


async def test_concurrent_dials_end_in_one_link_and_no_call_is_lost(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 4)
    for node in nodes:
        node.server.register(ECHO, echo)
    async with running(nodes):
        async with trio.open_nursery() as nursery:

            async def call(caller: Node, callee: Node) -> None:
                answer = await caller.peers.call(callee.id, ECHO, Text("x"), deadline=soon())
                assert answer.text.endswith(" x")

            for caller in nodes:
                for callee in nodes:
                    if caller is not callee:
                        for _ in range(3):
                            nursery.start_soon(call, caller, callee)
        # Retired links go when both ends have said so: wait for that, then count.
        with trio.fail_after(10):
            while any(len(node.peers.statistics().links) != len(nodes) - 1 for node in nodes):
                await trio.testing.wait_all_tasks_blocked(0.001)
        for node in nodes:
            assert node.peers.linked() == {other.id for other in nodes if other is not node}


def test_two_ends_keep_the_same_of_two_links_dialled_at_once() -> None:
    # The smaller end sees its own dial as "dialled"; the larger one sees the same link as not dialled.
    for first_by_smaller in (True, False):
        at_smaller = newer_wins(
            same_boot=True,
            old_dialled=first_by_smaller,
            new_dialled=not first_by_smaller,
            old_age_s=0.1,
            smaller_here=True,
        )
        at_larger = newer_wins(
            same_boot=True,
            old_dialled=not first_by_smaller,
            new_dialled=first_by_smaller,
            old_age_s=0.1,
            smaller_here=False,
        )
        assert at_smaller is at_larger is (not first_by_smaller)


def test_a_peer_that_started_anew_replaces_its_old_link_whoever_dialled() -> None:
    for old in (True, False):
        for new in (True, False):
            assert newer_wins(
                same_boot=False, old_dialled=old, new_dialled=new, old_age_s=1.0, smaller_here=True
            )


async def test_a_stranger_with_tls_gets_no_byte(tmp_path: Path) -> None:
    member, stranger = make_nodes(tmp_path, 2)
    async with running([member]):
        for with_certificate in (True, False):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["freecloud-mesh/1"])
            if with_certificate:
                context.load_cert_chain(stranger.identity.pem_path)
            host, port = member.address.split(":")
            tcp = await trio.open_tcp_stream(host, int(port))
            stream = trio.SSLStream(tcp, context)
            received = b""
            try:
                await stream.do_handshake()
                await stream.send_all(b"\x01\x00\x00\x00\x00\x00\x00\x01x")
                received = bytes(await stream.receive_some(100))
            except trio.BrokenResourceError:
                pass
            assert received == b""
            await tcp.aclose()
        with trio.fail_after(5):
            while member.strangers < 2:
                await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_stranger_that_dials_is_refused_and_told_so(tmp_path: Path) -> None:
    member, stranger = make_nodes(tmp_path, 2)
    async with running([member]) as nursery:
        await stranger.start(nursery)
        stranger.knows(stranger.member(), member.member())
        stranger.peers.set_addresses(member.id, (member.address,))
        with pytest.raises(UnreachableError, match="does not know this node"):
            await stranger.peers.call(member.id, ECHO, Text("x"), deadline=soon())
        assert stranger.strangers == 1
        assert member.peers.linked() == frozenset()


async def test_another_certificate_under_a_members_name_is_refused_by_both_sides(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    imposter = Node(create_identity(tmp_path / "imposter"))
    async with running([first, second]) as nursery:
        await imposter.start(nursery)
        imposter.knows(first.member(), second.member(), imposter.member())
        # The imposter listens where second is thought to be …
        first.peers.set_addresses(second.id, (imposter.address,))
        with pytest.raises(UnreachableError):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        # … and the ledger may even say its name belongs to second: the bytes of the certificate decide.
        first.knows(
            first.member(), replace(second.member(), certificate=imposter.identity.certificate, name="second")
        )
        with pytest.raises(UnreachableError, match="hello names another node"):
            first.peers.peer_seen(second.id)
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())


async def test_nodes_of_two_meshes_do_not_link(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    second.mesh_id = MeshId("b" * 26)
    async with running([first, second]):
        with pytest.raises(UnreachableError, match="another mesh"):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())


async def test_a_removed_peers_link_closes_at_once_and_it_stays_out(tmp_path: Path) -> None:
    first, second, removed = make_nodes(tmp_path, 3)
    for node in (first, second, removed):
        node.server.register(ECHO, echo)
    async with running([first, second, removed]):
        await removed.peers.call(first.id, ECHO, Text("x"), deadline=soon())
        await removed.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        with first.peers.watch_links() as links:
            assert await next_event(links) == LinkOpened(removed.id, removed.hello())
            for node in (first, second):
                node.knows(first.member(), second.member())
            assert await next_event(links) == LinkClosed(removed.id, by_kernel=False)
        with removed.peers.watch_links() as links, trio.fail_after(5):
            while removed.peers.linked():
                await next_event(links)
        removed.peers.peer_seen(first.id)
        with pytest.raises(UnreachableError):
            await removed.peers.call(first.id, ECHO, Text("again"), deadline=soon())
        # The others go on.
        await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())


async def test_a_peer_that_is_removed_during_its_handshake_gets_no_link(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    hello = first.hello

    def removing_hello() -> Hello:
        first.knows(first.member())
        return hello()

    async with running([first, second]):
        first.peers._hello = removing_hello
        # The dialler had its answer and may have begun to speak; nobody listens any more.
        with pytest.raises((UnreachableError, OutcomeUnknown)):
            await second.peers.call(first.id, ECHO, Text("x"), deadline=soon())
        with trio.fail_after(5):
            while not first.strangers:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert first.peers.linked() == frozenset() and first.peers.statistics().links == ()


async def test_a_node_that_stops_is_noticed_through_its_kernel(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    async with running([first, second]):
        assert first.peers.notify(second.id, BEAT, Text("x")) is False  # no link yet; a dial has begun
        await wait_linked(first, second)
        with first.peers.watch_links() as links:
            assert isinstance(await next_event(links), LinkOpened)
            second.stop()
            assert await next_event(links) == LinkClosed(second.id, by_kernel=True)


async def test_a_node_that_starts_anew_at_another_address_is_linked_again(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    second.server.register(ECHO, echo)
    async with running([first, second]) as nursery:
        await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        with first.peers.watch_links() as links:
            await next_event(links)
            second.stop()
            await next_event(links)
        with pytest.raises(UnreachableError):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        again = Node(second.identity, boot_counter=2, server=second.server)
        await again.start(nursery)
        again.knows(first.member(), again.member())
        first.peers.set_addresses(second.id, (again.address,))
        assert (await first.peers.call(second.id, ECHO, Text("y"), deadline=soon())).text.endswith("y")
        hello = first.peers.hello_of(second.id)
        assert hello is not None and hello.boot_counter == 2


async def test_an_unreachable_peer_is_told_at_once_while_its_backoff_runs(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    async with running([first]):
        first.knows(first.member(), second.member())
        with pytest.raises(UnreachableError, match="no address"):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        first.peers.set_addresses(second.id, ("127.0.0.1:1",))
        for _ in range(5):
            with pytest.raises(UnreachableError, match="refused"):
                await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        assert first.peers.statistics().dials < 5


async def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    async with running([first, second]):
        with pytest.raises(RefusedError, match="does not answer"):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        assert second.server.statistics().refused == 1
