"""Everything that the machine wants done, and where its parts put it until it is drained."""

from __future__ import annotations

from dataclasses import dataclass, field

from gossip.events import GossipEvent, Note
from mesh.names import NodeId


@dataclass(frozen=True, slots=True)
class Send:
    """Seal these bytes and send them as one datagram; no answer is owed."""

    to: NodeId
    address: str  # host:port
    payload: bytes  # at most what leaves room for the seal


@dataclass(frozen=True, slots=True)
class ProbeByStream:
    """Ask over the link whether it lives, and tell `receive_stream_result`."""

    target: NodeId
    sequence: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Have a push-pull conversation (`begin_exchange`), and tell `exchange_finished`."""

    peer: NodeId
    wanted: tuple[NodeId, ...]  # only these members' facts; empty: everything


@dataclass(frozen=True, slots=True)
class Output:
    """One drained outbox. The order within a field is the order to carry it out in."""

    sends: tuple[Send, ...] = ()
    stream_probes: tuple[ProbeByStream, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    events: tuple[GossipEvent, ...] = ()
    notes: tuple[Note, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sends or self.stream_probes or self.exchanges or self.events or self.notes)


@dataclass(slots=True)
class Outbox:
    """Filled by inputs; bounded by them, since each is drained after every input."""

    sends: list[Send] = field(default_factory=list)
    stream_probes: list[ProbeByStream] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    events: list[GossipEvent] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def drain(self) -> Output:
        output = Output(
            tuple(self.sends),
            tuple(self.stream_probes),
            tuple(self.exchanges),
            tuple(self.events),
            tuple(self.notes),
        )
        for part in (self.sends, self.stream_probes, self.exchanges, self.events, self.notes):
            part.clear()
        return output
