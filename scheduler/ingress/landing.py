"""Where tunnels of other nodes' ingresses arrive: each leads to the one replica that its header names.

The header holds a replica and its assignment's index, never an address, so that a member cannot reach anything else
of this machine through it (attack 15); a replica that runs here under another assignment is somebody else's (A1).
"""

from __future__ import annotations

import trio

from mesh.http.streams import BROKEN, ByteStream, finish_sending
from mesh.names import Role
from mesh.rpc import Caller, RpcServer
from mesh.tunnel import Tunnel
from scheduler.ingress.local import LocalReplicas
from scheduler.ingress.upstreams import TUNNEL_KIND
from scheduler.runtimes.messages import RUNTIME, TunnelTo

PIECE_BYTES = 64 * 1024
CONNECT_S = 2.0

HALF_CLOSED_S = 60.0
"""For the second side after the first has finished: a tunnel that was given up looks like one that was half closed."""


def register_landing(server: RpcServer, local: LocalReplicas) -> None:
    """Answer ingress tunnels of trusted members."""

    async def land(caller: Caller, header: bytes, tunnel: Tunnel) -> None:
        wanted = RUNTIME.decode(header, TunnelTo)
        deadline = min(caller.deadline, trio.current_time() + CONNECT_S)
        replica = await local.connect(wanted.replica_id, wanted.assignment_index, deadline=deadline)
        try:
            await join_streams(tunnel, replica)
        finally:
            await replica.aclose()

    server.register_tunnel(TUNNEL_KIND, Role.TRUSTED, land)


async def join_streams(one: ByteStream, other: ByteStream) -> None:
    """Carry bytes both ways until both sides have finished, until either breaks, or one goes on for too long alone."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry, one, other, nursery.cancel_scope)
        nursery.start_soon(_carry, other, one, nursery.cancel_scope)


async def _carry(source: ByteStream, sink: ByteStream, both: trio.CancelScope) -> None:
    try:
        while piece := await source.receive_some(PIECE_BYTES):
            await sink.send_all(piece)
        await finish_sending(sink)
        both.deadline = trio.current_time() + HALF_CLOSED_S
    except BROKEN:
        both.cancel()
