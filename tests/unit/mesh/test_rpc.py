"""Calls between real nodes: shapes, roles, deadlines, cancellation, errors, tunnels."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mesh.errors import (
    DeadlineError,
    ExhaustedError,
    FencedError,
    InviteRefused,
    MissingError,
    OutcomeUnknown,
    RefusedError,
)
from mesh.names import Role
from mesh.rpc import Caller, Lane, Method, RpcServer, Shape
from mesh.tunnel import Tunnel
from tests.unit.mesh.methods import (
    BEAT,
    COUNT,
    ECHO,
    LARGE,
    TEST,
    TRUSTED_ECHO,
    VOTER_BEAT,
    VOTER_ECHO,
    Bytes,
    Text,
)
from tests.unit.mesh.nodes import make_nodes, next_event, running, soon, wait_linked


async def echo(caller: Caller, request: Text) -> Text:
    return request


class Recorder:
    """Handlers that a test can look into."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.cancelled = trio.Event()
        self.release = trio.Event()
        self.deadline = math.nan
        self.sent = 0
        self.notices: list[str] = []
        self.noticed = trio.Event()

    async def hang(self, caller: Caller, request: Text) -> Text:
        self.deadline = caller.deadline
        self.entered.set()
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return request

    async def count_for_ever(self, caller: Caller, request: Text) -> AsyncIterator[Text]:
        self.entered.set()
        try:
            while True:
                yield Text(str(self.sent) + "x" * 10_000)
                self.sent += 1
        finally:
            self.cancelled.set()

    def note(self, caller: Caller, request: Text) -> None:
        self.notices.append(request.text)
        self.noticed.set()


async def count_to_three(caller: Caller, request: Text) -> AsyncIterator[Text]:
    for number in range(3):
        yield Text(f"{request.text}{number}")
    if request.text == "bad":
        raise MissingError("there is no fourth", hint="be content")


async def test_a_stream_of_answers_ends_or_raises_after_what_came_before(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path, 2)
    for node in nodes:
        node.server.register(COUNT, count_to_three)
    async with running(nodes):
        for callee in nodes:  # the first is itself: the same without a link
            async with nodes[0].peers.stream(callee.id, COUNT, Text("n"), deadline=soon()) as answers:
                assert [answer.text async for answer in answers] == ["n0", "n1", "n2"]
            async with nodes[0].peers.stream(callee.id, COUNT, Text("bad"), deadline=soon()) as answers:
                for number in range(3):
                    assert await anext(answers) == Text(f"bad{number}")
                with pytest.raises(MissingError, match=r"no fourth \(be content\)"):
                    await anext(answers)


async def test_a_reader_that_stops_reading_stops_the_handler_and_leaving_cancels_it(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    recorder = Recorder()
    second.server.register(COUNT, recorder.count_for_ever)
    second.server.register(ECHO, echo)
    async with running([first, second]):
        async with first.peers.stream(second.id, COUNT, Text(""), deadline=math.inf) as answers:
            await anext(answers)
            with trio.fail_after(20):
                before = -1
                while recorder.sent != before:
                    before = recorder.sent
                    # The control lane is not held up by what nobody reads.
                    await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
            # One stream's window, its queue and what stands between: far below a megabyte.
            assert 0 < recorder.sent < 60
            assert not recorder.cancelled.is_set()
        with trio.fail_after(5):
            await recorder.cancelled.wait()


async def test_the_remaining_time_travels_and_ends_the_handler(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    recorder = Recorder()
    second.server.register(ECHO, recorder.hang)
    async with running([first, second]):
        deadline = trio.current_time() + 0.2
        with pytest.raises(DeadlineError):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=deadline)
        # Both ends have one clock here, so what travelled can be compared: rounded up to a millisecond.
        assert deadline - 0.002 <= recorder.deadline <= deadline + 0.1
        with trio.fail_after(5):
            await recorder.cancelled.wait()


async def test_a_callers_cancellation_cancels_the_handler(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    recorder = Recorder()
    second.server.register(ECHO, recorder.hang)
    async with running([first, second]):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                await first.peers.call(second.id, ECHO, Text("x"), deadline=math.inf)

            nursery.start_soon(call)
            await recorder.entered.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await recorder.cancelled.wait()


async def test_a_call_whose_link_is_lost_has_an_unknown_outcome_and_its_handler_is_cancelled(
    tmp_path: Path,
) -> None:
    first, second = make_nodes(tmp_path, 2)
    recorder = Recorder()
    second.server.register(ECHO, recorder.hang)
    async with running([first, second]) as nursery:

        async def remove() -> None:
            await recorder.entered.wait()
            first.knows(first.member())  # second is a member no more: the link closes

        nursery.start_soon(remove)
        with pytest.raises(OutcomeUnknown):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=math.inf)
        with trio.fail_after(5):
            await recorder.cancelled.wait()


async def test_errors_of_the_tree_arrive_as_what_they_were(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    raised = iter(
        [
            FencedError("a twin runs", why="two boots", hint="stop one"),
            InviteRefused("used", code="invite.used-up"),
            ExhaustedError("too many"),
        ]
    )

    async def fail(caller: Caller, request: Text) -> Text:
        async with trio.open_nursery():  # wraps the error into a group, as any handler's nursery does
            raise next(raised)

    second.server.register(ECHO, fail)
    async with running([first, second]):
        with pytest.raises(FencedError) as fenced:
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        assert (fenced.value.what, fenced.value.why, fenced.value.hint) == (
            "a twin runs",
            "two boots",
            "stop one",
        )
        with pytest.raises(InviteRefused) as refused:
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        assert refused.value.stable_code == "invite.used-up"
        with pytest.raises(ExhaustedError):
            await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())


@pytest.mark.parametrize(
    ("trusted", "voter", "allowed"),
    [
        (False, False, {"test.echo"}),
        (False, True, {"test.echo"}),
        (True, False, {"test.echo", "test.trusted"}),
        (True, True, {"test.echo", "test.trusted", "test.voter"}),
    ],
)
async def test_each_method_asks_the_trust_store_for_its_role_at_each_call(
    tmp_path: Path, trusted: bool, voter: bool, allowed: set[str]
) -> None:
    first, second = make_nodes(tmp_path, 2)
    recorder = Recorder()
    methods = [ECHO, TRUSTED_ECHO, VOTER_ECHO]
    for method in methods:
        second.server.register(method, echo)
    second.server.register(VOTER_BEAT, recorder.note)
    second.server.register(BEAT, recorder.note)
    async with running([first, second]):
        await first.peers.call(second.id, ECHO, Text("with every right"), deadline=soon())
        # The rights change under the living link.
        second.knows(first.member(trusted=trusted, voter=voter), second.member())
        served = set()
        for method in methods:
            try:
                await first.peers.call(second.id, method, Text("x"), deadline=soon())
                served.add(method.name)
            except RefusedError:
                pass
        assert served == allowed
        assert first.peers.notify(second.id, VOTER_BEAT, Text("voter"))
        assert first.peers.notify(second.id, BEAT, Text("member"))
        await first.peers.call(second.id, ECHO, Text("flush"), deadline=soon())
        with trio.fail_after(5):
            await recorder.noticed.wait()
        assert recorder.notices == (["voter", "member"] if trusted and voter else ["member"])


async def test_a_large_message_passes_and_one_over_the_limit_does_not(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)

    async def double(caller: Caller, request: Bytes) -> Bytes:
        return Bytes(bytes(reversed(request.payload)))

    second.server.register(LARGE, double)
    payload = bytes(range(256)) * 4096  # 1 MiB, the largest content
    async with running([first, second]):
        answer = await first.peers.call(second.id, LARGE, Bytes(payload), deadline=soon())
        assert answer.payload == bytes(reversed(payload))
        with pytest.raises(ExhaustedError):
            await first.peers.call(second.id, LARGE, Bytes(payload + b"x" * 2000), deadline=soon())
        # The link lives on.
        answer = await first.peers.call(second.id, LARGE, Bytes(b"ab"), deadline=soon())
        assert answer.payload == b"ba"


async def test_more_calls_than_a_lane_takes_wait_their_turn(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    at_once = 0
    most = 0

    async def busy(caller: Caller, request: Text) -> Text:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        at_once -= 1
        return request

    second.server.register(ECHO, busy)
    async with running([first, second]):
        answers: list[str] = []

        async def call(number: int) -> None:
            answers.append((await first.peers.call(second.id, ECHO, Text(str(number)), deadline=soon())).text)

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(call, number)
        assert sorted(answers, key=int) == [str(number) for number in range(500)]
        assert most <= 96


async def test_notices_arrive_in_order_and_only_over_an_open_link(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    recorder = Recorder()
    second.server.register(BEAT, recorder.note)
    second.server.register(ECHO, echo)
    async with running([first, second]):
        assert first.peers.notify(second.id, BEAT, Text("lost")) is False
        await wait_linked(first, second)
        sent = [str(number) for number in range(100)] + ["x" * 60_000]
        for text in sent:
            assert first.peers.notify(second.id, BEAT, Text(text))
        await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        assert recorder.notices == sent


async def test_a_full_lane_refuses_notices_and_keeps_the_link(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    recorder = Recorder()
    second.server.register(BEAT, recorder.note)
    second.server.register(ECHO, echo)
    async with running([first, second]):
        await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        taken = 0
        while first.peers.notify(second.id, BEAT, Text("x")):
            taken += 1
        assert taken >= 1024
        await first.peers.call(second.id, ECHO, Text("x"), deadline=soon())
        assert len(recorder.notices) == taken


async def test_a_node_answers_itself_without_a_link(tmp_path: Path) -> None:
    (alone,) = make_nodes(tmp_path, 1)
    recorder = Recorder()
    alone.server.register(ECHO, echo)
    alone.server.register(BEAT, recorder.note)
    alone.server.register(TRUSTED_ECHO, recorder.hang)
    async with running([alone]):
        assert await alone.peers.call(alone.id, ECHO, Text("x"), deadline=soon()) == Text("x")
        assert alone.peers.notify(alone.id, BEAT, Text("y"))
        assert recorder.notices == ["y"]
        with pytest.raises(DeadlineError):
            await alone.peers.call(alone.id, TRUSTED_ECHO, Text("x"), deadline=soon(0.05))
        assert alone.peers.statistics().links == ()


def test_a_method_is_registered_once_and_a_notice_has_no_answer() -> None:
    server = RpcServer()
    server.register(ECHO, echo)
    with pytest.raises(AssertionError):
        server.register(ECHO, echo)
    assert server.methods() == (ECHO,)
    with pytest.raises(AssertionError):
        Method("test.wrong", Text, Text, TEST, Role.MEMBER, Lane.CONTROL, Shape.NOTICE)


async def shout(caller: Caller, header: bytes, tunnel: Tunnel) -> None:
    """Refuses, fails late, or answers in capitals until the end."""
    if header == b"refuse":
        raise MissingError("no such replica")
    if header == b"silent":
        await trio.sleep_forever()
    while piece := await tunnel.receive_some(1000):
        if piece == b"fail":
            raise MissingError("too late to be told")
        await tunnel.send_all(piece.upper())
    await tunnel.send_all(b"END")


async def read_all(tunnel: Tunnel) -> bytes:
    received = b""
    while piece := await tunnel.receive_some(4096):
        received += piece
    return received


@pytest.mark.parametrize("local", [True, False])
async def test_a_tunnel_carries_bytes_both_ways_and_half_closes(tmp_path: Path, local: bool) -> None:
    first, second = make_nodes(tmp_path, 2)
    for node in (first, second):
        node.server.register_tunnel("shout", Role.TRUSTED, shout)
    callee = first if local else second
    async with running([first, second]):
        tunnel = await first.peers.open_tunnel(callee.id, "shout", b"", deadline=soon())
        await tunnel.send_all(b"hello")
        assert await tunnel.receive_some(100) == b"HELLO"
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await tunnel.send_all(b"x" * 2_000_000)
                await tunnel.send_eof()

            nursery.start_soon(send)
            assert await read_all(tunnel) == b"X" * 2_000_000 + b"END"
        await tunnel.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await tunnel.send_all(b"x")


@pytest.mark.parametrize("local", [True, False])
async def test_a_tunnels_error_travels_before_its_first_use_and_breaks_it_after(
    tmp_path: Path, local: bool
) -> None:
    first, second = make_nodes(tmp_path, 2)
    for node in (first, second):
        node.server.register_tunnel("shout", Role.TRUSTED, shout)
    callee = first if local else second
    async with running([first, second]):
        with pytest.raises(MissingError, match="no such replica"):
            await first.peers.open_tunnel(callee.id, "shout", b"refuse", deadline=soon())
        with pytest.raises(RefusedError):
            await first.peers.open_tunnel(callee.id, "no-such-kind", b"", deadline=soon())
        with pytest.raises(DeadlineError):
            await first.peers.open_tunnel(callee.id, "shout", b"silent", deadline=soon(0.1))
        tunnel = await first.peers.open_tunnel(callee.id, "shout", b"", deadline=soon())
        await tunnel.send_all(b"fail")
        with pytest.raises(trio.BrokenResourceError):
            await read_all(tunnel)
        await tunnel.aclose()
        with trio.fail_after(5):
            while any(entry.link.streams for entry in first.peers.statistics().links):
                await trio.testing.wait_all_tasks_blocked(0.001)


async def test_what_a_handler_sent_arrives_although_it_closed_at_once(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)

    async def answer_and_close(caller: Caller, header: bytes, tunnel: Tunnel) -> None:
        await tunnel.send_all(b"y" * 100_000)
        await tunnel.aclose()

    second.server.register_tunnel("once", Role.MEMBER, answer_and_close)
    async with running([first, second]):
        tunnel = await first.peers.open_tunnel(second.id, "once", b"", deadline=soon())
        assert await read_all(tunnel) == b"y" * 100_000
        await tunnel.aclose()


async def test_a_lost_link_breaks_its_tunnels(tmp_path: Path) -> None:
    first, second = make_nodes(tmp_path, 2)
    second.server.register_tunnel("shout", Role.TRUSTED, shout)
    async with running([first, second]):
        tunnel = await first.peers.open_tunnel(second.id, "shout", b"", deadline=soon())
        with first.peers.watch_links() as links:
            await next_event(links)
            second.stop()
            await next_event(links)
        with pytest.raises(trio.BrokenResourceError):
            await tunnel.receive_some(10)
