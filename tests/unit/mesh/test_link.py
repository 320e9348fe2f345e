"""One link over streams in memory: how it ends, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from mesh.calls import call_on
from mesh.errors import DeadlineError, OutcomeUnknown, RefusedError
from mesh.framing import FrameDecoder, FrameKind, encode_frame
from mesh.hello import Greeted, Hello
from mesh.lanes import Lane
from mesh.link import Link, LinkOver
from mesh.link_streams import MuxStream, StreamBroken
from mesh.mux_events import MuxConfig
from mesh.names import MeshId, NodeId
from mesh.rpc import FAILURE, RPC, Call, Caller, Method, RpcServer, rebuilt
from mesh.trust import TrustedPeer, TrustStore
from tests.unit.mesh.methods import BEAT, COUNT, ECHO, LARGE, VOTER_ECHO, Bytes, Text

HERE, THERE = NodeId("here"), NodeId("there")


def hello(node_id: NodeId) -> Hello:
    return Hello(MeshId("m"), node_id, 1, 1, b"s" * 16, 1, b"n" * 8, "0", 1, ())


class MemoryStream:
    """trio's memory stream as a `mesh` Stream; counts what was sent and can be made to fail."""

    def __init__(self, stream: trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]) -> None:
        self._stream = stream
        self._rest = b""
        self.send_broken = False

    async def send_all(self, payload: bytes) -> None:
        if self.send_broken:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError
        payload, self._rest = self._rest + payload, b""
        await self._stream.send_all(payload)

    def try_send(self, payload: bytes) -> bool:
        self._rest += payload  # nothing leaves a memory stream without waiting
        return False

    async def receive_some(self, bytes_max: int) -> bytes:
        return bytes(await self._stream.receive_some(bytes_max))

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class End:
    """One end: its link, what it answers, how it ended."""

    node_id: NodeId
    stream: MemoryStream
    link: Link
    server: RpcServer = field(default_factory=RpcServer)
    trust: TrustStore = field(
        default_factory=lambda: TrustStore(
            [TrustedPeer(node, b"", node.encode(), node, True, False) for node in (HERE, THERE)]
        )
    )
    over: LinkOver | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    async def serve_stream(self, link: Link, stream: MuxStream) -> None:
        await self.server.serve(self.trust, link.hello.node_id, stream)

    def take_notice(self, link: Link, lane: Lane, payload: bytes) -> None:
        self.server.take_notice(self.trust, link.hello.node_id, lane, payload)

    def link_retired(self, link: Link) -> None:
        pass

    async def run(self) -> None:
        self.over = await self.link.run(self)
        self.ended.set()


def link_pair() -> tuple[End, End]:
    ends = []
    for stream, node_id, peer, dialled in zip(
        trio.testing.memory_stream_pair(), (HERE, THERE), (THERE, HERE), (True, False), strict=True
    ):
        memory = MemoryStream(stream)
        greeted = Greeted(hello(peer), FrameDecoder(), [])
        link = Link(memory, certificate=b"", greeted=greeted, dialled=dialled, config=MuxConfig())
        ends.append(End(node_id, memory, link))
    return ends[0], ends[1]


async def echo(caller: Caller, request: Text) -> Text:
    return request


async def hang(caller: Caller, request: Text) -> Text:
    await trio.sleep_forever()
    raise AssertionError


async def hang_counting(caller: Caller, request: Text) -> AsyncIterator[Text]:
    await trio.sleep_forever()
    yield request


async def ended(end: End) -> LinkOver:
    await end.ended.wait()
    assert end.over is not None
    return end.over


@pytest.mark.autojump
async def test_the_peers_end_of_stream_is_told_as_its_kernels() -> None:
    here, there = link_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        await there.stream.aclose()
        assert (await ended(here)).by_kernel


@pytest.mark.autojump
async def test_a_silent_peer_is_not_told_as_closed_by_its_kernel() -> None:
    here, _there = link_pair()  # the other end is connected and does nothing
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        over = await ended(here)
    assert not over.by_kernel and "silent" in over.why
    assert 6.0 <= trio.current_time() - start < 8.1


@pytest.mark.autojump
async def test_two_quiet_ends_keep_their_link() -> None:
    here, there = link_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        nursery.start_soon(there.run)
        await trio.sleep(60)
        assert here.link.open and there.link.open
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_two_retired_ends_close_when_the_last_call_has_ended() -> None:
    here, there = link_pair()
    release = trio.Event()

    async def slow(caller: Caller, request: Text) -> Text:
        await release.wait()
        return request

    there.server.register(ECHO, slow)
    async with trio.open_nursery() as nursery:
        for end in (here, there):
            nursery.start_soon(end.run)
        answers = []

        async def call() -> None:
            answers.append(await call_on(here.link, ECHO, Text("kept"), math.inf))

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        here.link.retire()
        there.link.retire()
        await trio.testing.wait_all_tasks_blocked()
        assert here.over is None and not here.link.open
        release.set()
        for end in (here, there):
            assert not (await ended(end)).by_kernel
        assert answers == [Text("kept")]


@pytest.mark.autojump
async def test_an_answer_that_was_sent_before_the_peer_closed_is_still_read() -> None:
    here, there = link_pair()
    there.server.register(ECHO, echo)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        nursery.start_soon(there.run)
        await trio.testing.wait_all_tasks_blocked()
        stream = here.link.open_stream(Lane.CONTROL, RPC.encode(Call(ECHO.name, 1000)))
        await stream.send(ECHO.codec.encode(Text("x")), end=True)
        await trio.testing.wait_all_tasks_blocked()
        here.stream.send_broken = True
        here.link.notify(Lane.CONSENSUS, BEAT.encode_notice(Text("cannot be sent")))
        await trio.testing.wait_all_tasks_blocked()
        assert here.over is None
        assert await stream.receive(1000) == b"\0" + ECHO.codec.encode(Text("x"))
        there.link.close("test")
        assert (await ended(here)).by_kernel


@pytest.mark.autojump
async def test_nonsense_ends_the_link_and_not_the_node() -> None:
    here, there = link_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        await there.stream.send_all(encode_frame(FrameKind.PING, b"12345678") + b"\xff" * 8)
        over = await ended(here)
    assert not over.by_kernel and "not a frame" in over.why


@pytest.mark.autojump
async def test_a_link_that_is_stopped_breaks_its_streams_and_closes_its_connection() -> None:
    here, there = link_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        await trio.testing.wait_all_tasks_blocked()
        stream = here.link.open_stream(Lane.BULK, b"")
        nursery.cancel_scope.cancel()
    with pytest.raises(StreamBroken):
        await stream.receive(10)
    while await there.stream.receive_some(1000):
        pass


@pytest.mark.autojump
@pytest.mark.parametrize("method", [ECHO, COUNT])
async def test_the_handlers_deadline_is_kept_by_the_peer_itself(method: Method[Text, Text]) -> None:
    here, there = link_pair()
    there.server.register(ECHO, hang)
    there.server.register(COUNT, hang_counting)
    async with trio.open_nursery() as nursery:
        for end in (here, there):
            nursery.start_soon(end.run)
        # By hand: this caller sets no limit of its own to its waiting.
        stream = here.link.open_stream(method.lane, RPC.encode(Call(method.name, 500)))
        start = trio.current_time()
        await stream.send(method.codec.encode(Text("x")), end=True)
        with trio.fail_after(5):
            reply = await stream.receive(4096)
        assert reply is not None and reply[:1] == FAILURE
        assert isinstance(rebuilt(reply[1:]), DeadlineError)
        assert 0.5 <= trio.current_time() - start < 1.0
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_a_unary_call_without_a_deadline_does_not_keep_a_handler_for_ever() -> None:
    here, there = link_pair()
    there.server.register(ECHO, hang)
    async with trio.open_nursery() as nursery:
        for end in (here, there):
            nursery.start_soon(end.run)
        with pytest.raises(DeadlineError):
            await call_on(here.link, ECHO, Text("x"), math.inf)
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_a_refusal_reaches_a_caller_whose_request_is_still_on_its_way() -> None:
    here, there = link_pair()
    large = type(LARGE)(
        VOTER_ECHO.name, Bytes, Bytes, LARGE.codec, VOTER_ECHO.role, Lane.CONTROL, VOTER_ECHO.shape
    )
    there.server.register(VOTER_ECHO, echo)
    async with trio.open_nursery() as nursery:
        for end in (here, there):
            nursery.start_soon(end.run)
        for _ in range(10):  # ten megabytes refused: the lane's window comes back each time
            with pytest.raises(RefusedError, match="voter"):
                await call_on(here.link, large, Bytes(bytes(1024 * 1024)), math.inf)
        await trio.testing.wait_all_tasks_blocked()
        assert here.link.statistics().streams == there.link.statistics().streams == 0
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    here, there = link_pair()
    there.server.register(ECHO, hang)
    async with trio.open_nursery() as nursery:
        for end in (here, there):
            nursery.start_soon(end.run)
        for _ in range(120):  # more than the lane has places for
            with trio.move_on_after(0.01):
                await call_on(here.link, ECHO, Text("x" * 1000), math.inf)
        await trio.testing.wait_all_tasks_blocked()
        assert here.link.statistics().streams == there.link.statistics().streams == 0
        nursery.cancel_scope.cancel()


@pytest.mark.autojump
async def test_a_lost_link_tells_a_sent_call_from_an_unsent_one() -> None:
    here, there = link_pair()
    there.server.register(ECHO, hang)
    async with trio.open_nursery() as nursery:
        for end in (here, there):
            nursery.start_soon(end.run)

        async def lose() -> None:
            await trio.testing.wait_all_tasks_blocked()
            there.link.close("test")

        nursery.start_soon(lose)
        with pytest.raises(OutcomeUnknown):
            await call_on(here.link, ECHO, Text("x"), math.inf)
