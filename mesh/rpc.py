"""What nodes ask of each other: methods with typed messages, a role each, a deadline and a cancellation that travel.

A call is one stream: OPEN carries the method's name and the caller's *remaining* time (clocks of nodes differ), then
the request, then one answer or many. Each answer begins with a byte that tells an answer from a failure. Errors of the
tree travel and are rebuilt at the caller. The caller's cancellation resets the stream, which cancels the handler.

Every method names the role that its caller must have. It is looked up in the trust store at each call; a method that
nobody registered is refused like one that is not allowed (attacks 8 and 9).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar, cast

import trio

from mesh.errors import DeadlineError, FreecloudError, Kind, ProtocolError, RefusedError, rebuild
from mesh.lanes import Lane as Lane
from mesh.link_streams import MuxStream, StreamBroken
from mesh.mux_events import MESSAGE_BYTES_MAX, ResetReason
from mesh.names import NodeId, Role
from mesh.trust import TrustStore
from mesh.tunnel import LocalTunnel, RemoteTunnel, Tunnel
from mesh.versioned import Codec, Limits

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

UNARY_S_MAX = 300.0
"""No unary call may keep a handler longer, whatever its caller asks for."""

RPC = Codec(Limits(total_bytes_max=4096, text_bytes_max=2048, bytes_max=2048, items_max=16))

FOREVER = -1  # remaining milliseconds of a call without a deadline

ANSWER = b"\0"
FAILURE = b"\1"


class Shape(Enum):
    UNARY = "unary"  # one request, one answer
    STREAM = "stream"  # one request, many answers
    NOTICE = "notice"  # one message, no answer; it may be lost


@dataclass(frozen=True)
class Method(Generic[RequestT, ResponseT]):
    """Something that one node may ask of another."""

    name: str  # "gossip.push-pull"
    request: type[RequestT]
    response: type[ResponseT] | None
    codec: Codec  # of both; its limits bound the messages
    role: Role
    lane: Lane
    shape: Shape

    def __post_init__(self) -> None:
        if (self.response is None) is not (self.shape is Shape.NOTICE):
            raise AssertionError(f"{self.name}: a notice has no answer, and everything else has one")
        if not 0 < len(self.name.encode()) < 256:
            raise AssertionError("a method's name has 1 to 255 bytes")

    def decode_request(self, payload: bytes) -> RequestT:
        return self.codec.decode(payload, self.request)

    def decode_response(self, payload: bytes) -> ResponseT:
        if self.response is None:
            raise AssertionError(f"{self.name} has no answer")
        return self.codec.decode(payload, self.response)

    def encode_notice(self, request: RequestT) -> bytes:
        """A notice as it travels: the length of the name, the name, the message."""
        name = self.name.encode()
        return bytes([len(name)]) + name + self.codec.encode(request)

    @property
    def message_bytes_max(self) -> int:
        """Of one message of this method, its first byte included."""
        return min(self.codec.limits.total_bytes_max, MESSAGE_BYTES_MAX) + 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and until when (trio time; inf: until it goes away)."""

    node_id: NodeId
    deadline: float


@RPC.message("rpc.call")
@dataclass(frozen=True, slots=True)
class Call:
    method: str
    remaining_ms: int


@RPC.message("rpc.tunnel")
@dataclass(frozen=True, slots=True)
class OpenTunnel:
    kind: str
    header: bytes
    remaining_ms: int


@RPC.message("rpc.failure")
@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way to the caller."""

    code: str
    kind: str
    what: str
    why: str
    hint: str


Handler = Callable[[Caller, Any], Any]
TunnelHandler = Callable[[Caller, bytes, Tunnel], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RpcStatistics:
    """Counts since the start."""

    served: int
    refused: int
    failed: int
    dropped_notices: int
    by_method: tuple[tuple[str, int], ...]


class RpcServer:
    """What this node answers; filled while the node is wired, then constant."""

    def __init__(self) -> None:
        self._methods: dict[str, tuple[Method[Any, Any], Handler]] = {}
        self._tunnels: dict[str, tuple[Role, TunnelHandler]] = {}
        self._served: Counter[str] = Counter()
        self._refused = 0
        self._failed = 0
        self._dropped_notices = 0

    def register(
        self,
        method: Method[RequestT, ResponseT],
        handler: Callable[[Caller, RequestT], Awaitable[ResponseT] | AsyncIterator[ResponseT] | None],
    ) -> None:
        """Answer a method.

        Args:
            method: Its name may be registered once.
            handler: UNARY: an async function; STREAM: an async generator function; NOTICE: a plain function, quick.
                It may raise any error of the tree.
        """
        if method.name in self._methods:
            raise AssertionError(f"the method {method.name!r} is registered twice")
        self._methods[method.name] = (method, handler)

    def register_tunnel(self, kind: str, role: Role, handler: TunnelHandler) -> None:
        """Answer tunnels of a kind: `handler(caller, header, stream)` owns the stream until it returns.

        An error of the tree that it raises before it first uses the stream travels to the opener; later ones break
        the stream.
        """
        if kind in self._tunnels:
            raise AssertionError(f"the tunnel {kind!r} is registered twice")
        self._tunnels[kind] = (role, handler)

    def methods(self) -> tuple[Method[Any, Any], ...]:
        """Everything registered, in order of registration; tests walk it with every role."""
        return tuple(method for method, _ in self._methods.values())

    def statistics(self) -> RpcStatistics:
        return RpcStatistics(
            self._served.total(),
            self._refused,
            self._failed,
            self._dropped_notices,
            tuple(sorted(self._served.items())),
        )

    # From this node itself, without a link.

    async def call_here(
        self, trust: TrustStore, caller: Caller, method: Method[RequestT, ResponseT], request: RequestT
    ) -> ResponseT:
        """Answer a unary call of this node to itself."""
        _, handler = self._admit(trust, caller, method.name, Shape.UNARY)
        with trio.move_on_at(caller.deadline):
            try:
                return cast(ResponseT, await handler(caller, request))
            except BaseExceptionGroup as group:
                raise sole_error(group) from group
        raise _late(method.name)

    def stream_here(
        self, trust: TrustStore, caller: Caller, method: Method[RequestT, ResponseT], request: RequestT
    ) -> AsyncGenerator[ResponseT, None]:
        """Answer a streaming call of this node to itself."""
        _, handler = self._admit(trust, caller, method.name, Shape.STREAM)
        return cast(AsyncGenerator[ResponseT, None], handler(caller, request))

    async def serve_tunnel_here(
        self,
        trust: TrustStore,
        caller: Caller,
        kind: str,
        header: bytes,
        tunnel: LocalTunnel,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Answer a tunnel of this node to itself; started when the handler first uses it, or fails with its error."""
        handler = self._admit_tunnel(trust, caller, kind)
        with trio.move_on_at(caller.deadline) as scope:

            def accepted() -> None:
                scope.deadline = math.inf
                task_status.started()

            tunnel.on_used = accepted
            try:
                await handler(caller, header, tunnel)
            except (FreecloudError, trio.BrokenResourceError, BaseExceptionGroup) as error:
                known = (
                    error
                    if isinstance(error, (FreecloudError, trio.BrokenResourceError))
                    else sole_error(error)
                )
                tunnel.abort()
                if not tunnel.used:
                    raise known from error
                self._failed += 1
            finally:
                tunnel.close()
        if not tunnel.used:
            if scope.cancelled_caught:
                raise _late(f"the tunnel {kind!r}")
            task_status.started()

    def notice_here(
        self, trust: TrustStore, caller: Caller, method: Method[RequestT, ResponseT], request: RequestT
    ) -> None:
        """Take a notice of this node to itself."""
        _, handler = self._admit(trust, caller, method.name, Shape.NOTICE)
        handler(caller, request)

    # From a link.

    def take_notice(self, trust: TrustStore, node_id: NodeId, lane: Lane, payload: bytes) -> None:
        """Handle a notice; one that is not allowed or not readable is dropped and counted."""
        length = payload[0]
        name = payload[1 : 1 + length].decode("utf-8", "replace")
        caller = Caller(node_id, math.inf)
        try:
            method, handler = self._admit(trust, caller, name, Shape.NOTICE)
            if method.lane is not lane:
                raise ProtocolError(f"{name} came on another lane than its own")
            request = method.decode_request(payload[1 + length :])
        except FreecloudError:
            self._dropped_notices += 1
            return
        handler(caller, request)

    async def serve(self, trust: TrustStore, node_id: NodeId, stream: MuxStream) -> None:
        """Answer one stream that a peer opened."""
        scope = trio.CancelScope()
        stream.on_broken = scope.cancel
        if stream.broken:
            scope.cancel()
        try:
            with scope:
                await self._answer(trust, node_id, stream)
        except StreamBroken:
            pass  # the caller cancelled, or its link is gone: there is nobody to tell
        finally:
            stream.close()

    async def _answer(self, trust: TrustStore, node_id: NodeId, stream: MuxStream) -> None:
        try:
            opening: object = RPC.decode(stream.header)
        except FreecloudError as error:
            await self._fail(stream, error, trio.current_time() + 1.0)
            return
        match opening:
            case Call(method=name, remaining_ms=remaining_ms):
                caller = Caller(node_id, _deadline(remaining_ms))
                await self._answer_call(trust, caller, name, stream)
            case OpenTunnel(kind=kind, header=header, remaining_ms=remaining_ms):
                caller = Caller(node_id, _deadline(remaining_ms))
                await self._answer_tunnel(trust, caller, kind, header, stream)
            case _:
                stream.reset(ResetReason.PROTOCOL)

    async def _answer_call(self, trust: TrustStore, caller: Caller, name: str, stream: MuxStream) -> None:
        deadline = caller.deadline
        try:
            with trio.move_on_at(deadline) as scope:
                method, handler = self._admit(trust, caller, name, None)
                if method.lane is not stream.lane or method.shape is Shape.NOTICE:
                    raise ProtocolError(f"{name} was called in another way than it is meant")
                payload = await stream.receive(method.message_bytes_max)
                if payload is None:
                    raise ProtocolError("a call without a request")
                request = method.decode_request(payload)
                if method.shape is Shape.UNARY:
                    scope.deadline = min(deadline, trio.current_time() + UNARY_S_MAX)
                    answer = await handler(caller, request)
                    await stream.send(ANSWER + method.codec.encode(answer), end=True)
                else:
                    async with aclosing(handler(caller, request)) as answers:
                        async for answer in answers:
                            await stream.send(ANSWER + method.codec.encode(answer))
                    stream.end()
            if scope.cancelled_caught:
                raise _late(name)
        except FreecloudError as error:
            await self._fail(stream, error, deadline)
        except BaseExceptionGroup as group:
            await self._fail(stream, sole_error(group), deadline)

    async def _answer_tunnel(
        self, trust: TrustStore, caller: Caller, kind: str, header: bytes, stream: MuxStream
    ) -> None:
        tunnel = RemoteTunnel(stream, ANSWER)
        try:
            with trio.move_on_at(caller.deadline) as scope:
                tunnel.opening = scope
                handler = self._admit_tunnel(trust, caller, kind)
                await handler(caller, header, tunnel)
                if not tunnel.closed:
                    await tunnel.accept()
                    stream.end()
            if scope.cancelled_caught:
                raise _late(f"the tunnel {kind!r}")
        except FreecloudError as error:
            await self._fail_tunnel(tunnel, stream, error, caller.deadline)
        except trio.BrokenResourceError:
            stream.reset(ResetReason.FAILED)
        except BaseExceptionGroup as group:
            if all(isinstance(leaf, trio.BrokenResourceError) for leaf in _leaves(group)):
                stream.reset(ResetReason.FAILED)
            else:
                await self._fail_tunnel(tunnel, stream, sole_error(group), caller.deadline)

    async def _fail_tunnel(
        self, tunnel: RemoteTunnel, stream: MuxStream, error: FreecloudError, deadline: float
    ) -> None:
        if tunnel.accepted:
            self._failed += 1
            stream.reset(ResetReason.FAILED)
        else:
            await self._fail(stream, error, deadline)

    async def _fail(self, stream: MuxStream, error: FreecloudError, deadline: float) -> None:
        """Tell the caller. What it still sends is dropped when the stream is closed, behind the failure."""
        self._failed += 1
        failure = Failure(
            error.stable_code, error.kind.value, error.what[:500], error.why[:500], error.hint[:300]
        )
        with trio.move_on_at(max(deadline, trio.current_time() + 1.0)):
            await stream.send(FAILURE + RPC.encode(failure), end=True)

    def _admit(
        self, trust: TrustStore, caller: Caller, name: str, shape: Shape | None
    ) -> tuple[Method[Any, Any], Handler]:
        entry = self._methods.get(name)
        if entry is None or (shape is not None and entry[0].shape is not shape):
            self._refused += 1
            raise RefusedError(f"this node does not answer {name}", why="it may be of an older version")
        if not trust.role_ok(caller.node_id, entry[0].role):
            self._refused += 1
            raise RefusedError(f"{name} is not for this caller", why=f"it has to be {entry[0].role.value}")
        self._served[name] += 1
        return entry

    def _admit_tunnel(self, trust: TrustStore, caller: Caller, kind: str) -> TunnelHandler:
        entry = self._tunnels.get(kind)
        if entry is None or not trust.role_ok(caller.node_id, entry[0]):
            self._refused += 1
            raise RefusedError(f"this node opens no tunnel {kind!r} for this caller")
        self._served[f"tunnel {kind}"] += 1
        return entry[1]


def rebuilt(payload: bytes) -> FreecloudError:
    """The error that a `Failure` describes."""
    failure = RPC.decode(payload, Failure)
    try:
        kind = Kind(failure.kind)
    except ValueError:
        kind = Kind.FAILED
    return rebuild(failure.code, kind, failure.what, failure.why, failure.hint)


def sole_error(group: BaseExceptionGroup[BaseException]) -> FreecloudError:
    """The error of the tree that a nursery wrapped; anything else in the group is a bug and goes on."""
    leaves = _leaves(group)
    errors = [leaf for leaf in leaves if isinstance(leaf, FreecloudError)]
    others = [leaf for leaf in leaves if not isinstance(leaf, FreecloudError)]
    if not others:
        return errors[0]
    if all(isinstance(leaf, trio.Cancelled) for leaf in others):
        # The handler was cancelled from outside while it was failing; nobody waits for its error any more.
        raise others[0]
    raise group


def remaining_ms(deadline: float) -> int:
    """What is left until an absolute trio time, as it travels."""
    if deadline == math.inf:
        return FOREVER
    return max(0, math.ceil((deadline - trio.current_time()) * 1000))


def _deadline(remaining: int) -> float:
    return math.inf if remaining < 0 else trio.current_time() + remaining / 1000


def _late(what: str) -> DeadlineError:
    return DeadlineError(f"{what} did not finish in time")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
