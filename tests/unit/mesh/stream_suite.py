"""What every `mesh.transports.stream.Stream` must do, whatever carries its bytes; each transport's test calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from mesh.transports.stream import Stream

Pair = Callable[[], Awaitable[tuple[Stream, Stream]]]


async def check_stream(make_pair: Pair) -> None:
    """Run the whole suite; `make_pair` gives two connected ends each time."""
    for check in (
        _bytes_arrive_in_order_both_ways,
        _the_end_is_an_empty_read,
        _a_sender_waits_for_a_reader_that_does_not_read,
        _sending_and_receiving_go_on_at_the_same_time,
        _a_closed_end_says_so_and_closing_twice_is_fine,
        _a_cancelled_read_loses_nothing,
        _what_is_sent_without_waiting_keeps_its_order,
        _a_broken_stream_tells_when_it_is_waited_for,
    ):
        one, other = await make_pair()
        await check(one, other)
        await one.aclose()
        await other.aclose()


async def _pieces(stream: Stream, count: int) -> AsyncIterator[bytes]:
    left = count
    while left:
        piece = await stream.receive_some(min(left, 50_000))
        assert piece
        left -= len(piece)
        yield piece


async def _read(stream: Stream, count: int) -> bytes:
    return b"".join([piece async for piece in _pieces(stream, count)])


async def _bytes_arrive_in_order_both_ways(one: Stream, other: Stream) -> None:
    payload = bytes(range(256)) * 2000
    for sender, receiver in ((one, other), (other, one)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, payload)
            assert await _read(receiver, len(payload)) == payload


async def _the_end_is_an_empty_read(one: Stream, other: Stream) -> None:
    await one.send_all(b"last")
    await one.aclose()
    assert await _read(other, 4) == b"last"
    assert await other.receive_some(10) == b""


async def _a_sender_waits_for_a_reader_that_does_not_read(one: Stream, other: Stream) -> None:
    with trio.move_on_after(0.2) as scope:
        while True:
            await one.send_all(bytes(1 << 20))
    assert scope.cancelled_caught


async def _sending_and_receiving_go_on_at_the_same_time(one: Stream, other: Stream) -> None:
    payload = b"x" * 3_000_000
    async with trio.open_nursery() as nursery:
        for stream in (one, other):
            nursery.start_soon(stream.send_all, payload)
            nursery.start_soon(_read, stream, len(payload))


async def _a_closed_end_says_so_and_closing_twice_is_fine(one: Stream, other: Stream) -> None:
    await one.aclose()
    await one.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await one.receive_some(1)
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await other.send_all(bytes(1 << 16))


async def _a_cancelled_read_loses_nothing(one: Stream, other: Stream) -> None:
    with trio.move_on_after(0):
        await other.receive_some(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.receive_some, 10)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await one.send_all(b"still here")
    assert await _read(other, 10) == b"still here"


async def _what_is_sent_without_waiting_keeps_its_order(one: Stream, other: Stream) -> None:
    sent = bytearray()
    left = True
    while left:  # until the way is full
        piece = len(sent).to_bytes(4, "big") * 4000
        sent += piece
        left = one.try_send(piece)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, b"the end")
        assert await _read(other, len(sent) + 7) == bytes(sent) + b"the end"


async def _a_broken_stream_tells_when_it_is_waited_for(one: Stream, other: Stream) -> None:
    await other.aclose()
    with pytest.raises(trio.BrokenResourceError):
        while True:
            if not one.try_send(b"x"):
                await one.send_all(b"x")
            await trio.lowlevel.checkpoint()
