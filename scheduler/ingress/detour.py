"""The way round to a replica on a node that others alone reach: through one of them (fault N3).

One hop and never two: whoever is asked opens an ordinary ingress tunnel, or fails. What arrives at the replica's node
is checked there as if it had come straight; the helper carries bytes that it does not look at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import trio

from gossip.members import MemberState
from gossip.view import MemberView
from mesh.mux_events import ANSWERING_S
from mesh.names import NodeId, Role
from mesh.peers import Peers
from mesh.rpc import Caller, RpcServer
from mesh.tunnel import Tunnel
from scheduler.ingress.landing import CONNECT_S, join_streams
from scheduler.ingress.upstreams import ROUND_KIND, TUNNEL_KIND
from scheduler.runtimes.messages import RUNTIME, TunnelRound

View = Callable[[], Mapping[NodeId, MemberView]]


def register_detour(server: RpcServer, peers: Peers) -> None:
    """Bring the tunnels of trusted members on to nodes that these cannot reach."""

    async def bring_on(caller: Caller, header: bytes, tunnel: Tunnel) -> None:
        wanted = RUNTIME.decode(header, TunnelRound)
        deadline = min(caller.deadline, trio.current_time() + CONNECT_S)
        onward = await peers.open_tunnel(wanted.node, TUNNEL_KIND, RUNTIME.encode(wanted.to), deadline=deadline)
        try:
            await join_streams(tunnel, onward)
        finally:
            await onward.aclose()

    server.register_tunnel(ROUND_KIND, Role.TRUSTED, bring_on)


def way_round(view: View, peers: Peers, rng: random.Random) -> Callable[[NodeId], NodeId | None]:
    """Whom to ask for a node, when gossip says that the straight way is cut; None where it is not, or nobody can."""

    def helper_for(node: NodeId) -> NodeId | None:
        members = view()
        far = members.get(node)
        if far is None or not far.is_indirect:
            return None
        helpers = [
            each.node_id
            for each in members.values()
            if each.node_id != node
            and each.state is MemberState.ALIVE
            and not each.is_indirect
            and peers.silent_s(each.node_id) < ANSWERING_S  # nobody has a link to itself
        ]
        return rng.choice(helpers) if helpers else None

    return helper_for
