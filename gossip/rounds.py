"""The probes under way: our own rounds, and the pings we send for others.

Times are stretched by local health (Lifeguard's LHA-Probe): a node that doubts itself waits longer before it accuses.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf

from gossip.awareness import Awareness
from gossip.probe import Probe
from gossip.profiles import Profile
from mesh.names import NodeId

PROBES_MAX = 64
"""At once. Each is one member; more at a time means that half a mesh fell silent, and then rounds tell nothing."""

RELAYS_MAX = 256
"""Pings for others under way; above that a request is dropped, and its requester counts a missing nack."""

NACK_SHARE = 0.6
"""Of the probe timeout: early enough that the nack is back before the requester's round ends."""


@dataclass(slots=True)
class Relay:
    """A ping on behalf of somebody."""

    requester: NodeId
    requester_sequence: int
    target: NodeId
    nack_at: float
    forget_at: float
    nacked: bool = False


class Rounds:
    """Starts rounds, finds them again by their sequence, and knows when the next thing is due."""

    def __init__(self, profile: Profile, awareness: Awareness, rng: random.Random) -> None:
        self._profile = profile
        self._awareness = awareness
        self._sequence = rng.getrandbits(32)  # an ack of an earlier start cannot fit
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def probing(self, target: NodeId) -> bool:
        """Whether a round for it is under way."""
        return any(probe.target == target for probe in self._probes.values())

    def start(self, now: float, target: NodeId) -> Probe | None:
        """A regular round; None if too many are under way."""
        stretch = self._awareness.multiplier
        return self._add(
            Probe(
                target,
                self.next_sequence(),
                started=now,
                direct_until=now + self._profile.probe_timeout_s * stretch,
                round_until=now + self._profile.probe_interval_s * stretch,
                regular=True,
            )
        )

    def start_urgent(self, now: float, target: NodeId, *, link_closed: bool) -> Probe | None:
        """A short round, out of turn: there is reason to believe that the target is gone."""
        length_s = self._profile.urgent_round_s * self._awareness.multiplier
        return self._add(
            Probe(
                target,
                self.next_sequence(),
                started=now,
                direct_until=now + length_s / 3,
                round_until=now + length_s,
                regular=False,
                link_closed=link_closed,
            )
        )

    def _add(self, probe: Probe) -> Probe | None:
        if len(self._probes) >= PROBES_MAX:
            return None
        self._probes[probe.sequence] = probe
        return probe

    def get(self, sequence: int) -> Probe | None:
        return self._probes.get(sequence)

    def take_acked(self, sender: NodeId, sequence: int) -> Probe | None:
        """The round that this ack ends, if it ends one."""
        probe = self._probes.get(sequence)
        if probe is None or not probe.accepts_ack(sender):
            return None
        return self._probes.pop(sequence)

    def wanting_helpers(self, now: float) -> tuple[Probe, ...]:
        return tuple(probe for probe in self._probes.values() if probe.wants_helpers(now) and not probe.over(now))

    def take_over(self, now: float) -> tuple[Probe, ...]:
        """The rounds that ended without an ack."""
        over = tuple(probe for probe in self._probes.values() if probe.over(now))
        for probe in over:
            del self._probes[probe.sequence]
        return over

    def send_failed(self, now: float, target: NodeId) -> None:
        for probe in self._probes.values():
            if probe.target == target:
                probe.send_failed(now)

    def relay(self, now: float, requester: NodeId, requester_sequence: int, target: NodeId) -> int | None:
        """Take on a ping for somebody; its sequence, or None when there are too many."""
        if len(self._relays) >= RELAYS_MAX:
            return None
        sequence = self.next_sequence()
        nack_at = now + self._profile.probe_timeout_s * NACK_SHARE
        forget_at = now + self._profile.probe_timeout_s * 4  # a late ack still helps a requester that doubts itself
        self._relays[sequence] = Relay(requester, requester_sequence, target, nack_at, forget_at)
        return sequence

    def take_relay(self, sender: NodeId, sequence: int) -> Relay | None:
        """The relay that this ack answers."""
        relay = self._relays.get(sequence)
        if relay is None or relay.target != sender:
            return None
        return self._relays.pop(sequence)

    def take_nacks(self, now: float) -> tuple[Relay, ...]:
        """Relays whose requester has to be told that nothing was heard; forgets the old ones."""
        due = tuple(relay for relay in self._relays.values() if not relay.nacked and relay.nack_at <= now)
        for relay in due:
            relay.nacked = True
        self._relays = {sequence: relay for sequence, relay in self._relays.items() if relay.forget_at > now}
        return due

    def forget(self, node_id: NodeId) -> None:
        """A member was removed."""
        self._probes = {key: probe for key, probe in self._probes.items() if probe.target != node_id}
        self._relays = {
            key: relay for key, relay in self._relays.items() if node_id not in (relay.target, relay.requester)
        }

    def postpone(self, by_s: float) -> None:
        for probe in self._probes.values():
            probe.postpone(by_s)

    def next_deadline(self) -> float:
        probes = min((probe.next_deadline() for probe in self._probes.values()), default=inf)
        relays = (relay.forget_at if relay.nacked else relay.nack_at for relay in self._relays.values())
        return min(probes, min(relays, default=inf))
