"""The timing of the protocol as three named profiles, each constant with its reason.

A mesh picks one profile and that is all there is to choose: the constants were weighed against each other, and one
changed alone (a timeout over the interval, a suspicion shorter than a round) makes false deaths.

Source: SWIM (DSN'02) §4; Lifeguard (DSN'18) §III for the suspicion factors; memberlist's three configurations for
what others chose, named where we differ.
"""

from __future__ import annotations

from dataclasses import dataclass

DATAGRAM_BYTES_MAX = 1200
"""Sealed. QUIC's floor (RFC 9000 §14): passes every path in use, tunnels included. memberlist: 1,400, unsealed."""

CONFIRMATIONS = 3
"""Lifeguard's K: with three *independent* accusers more than the first, a suspicion is as short as it gets."""

HELPERS = 3
"""Members asked to probe for us. SWIM's k; three lose to 20 % loss together once in a hundred rounds."""

AWARENESS_MAX = 8
"""Lifeguard's S: at worst everything waits nine times as long. More would be a node that detects nothing."""

RETRANSMIT_FACTOR = 4
"""λ: an update is sent λ·⌈log10(n + 1)⌉ times by each node. At 4, all of n = 1,000 miss it with probability 1e-6."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How patient a mesh is. Every time in seconds; every interval is stretched by local health where noted."""

    name: str
    probe_interval_s: float  # one member probed per interval; × (awareness + 1)
    probe_timeout_s: float  # for the direct ack; at most half the interval, or helpers have no time; × (awareness + 1)
    urgent_round_s: float  # a round for somebody whose link its kernel closed, or whom another suspects
    suspicion_factor: float  # shortest suspicion = factor × max(1, log10 n) × interval
    suspicion_stretch: float  # longest = stretch × shortest: what one accuser alone has to wait
    gossip_interval_s: float  # while there is news, a rumour goes out this often; no news, no timer
    gossip_fanout: int
    push_pull_interval_s: float  # whole comparison with one random member; the safety net, not the road
    lost_probe_interval_s: float  # one random dead or unknown member is pinged this often, for ever (pitfall 38)
    unknown_down_s: float  # a member never heard in this time is shown as down, by us alone
    slow_facts_s: float  # least time between two records that differ in load and the like only
    awareness_start: int  # a newcomer doubts itself first (pitfall 35); falls by one with each ack
    lag_s: float = 0.5  # a timer later than this means that *we* stood still (fault P3)


LAN = Profile(
    name="lan",
    probe_interval_s=1.0,  # a dead node of five is hit within a second by somebody
    probe_timeout_s=0.5,  # round trips are under 1 ms; the rest is for a neighbour's garbage collection
    urgent_round_s=0.75,
    suspicion_factor=1.5,  # memberlist: 4. We confirm at once (urgent rounds), so the floor is reached at once
    suspicion_stretch=4.0,  # memberlist: 6. One accuser alone waits 6 s
    gossip_interval_s=0.2,
    gossip_fanout=3,
    push_pull_interval_s=30.0,
    lost_probe_interval_s=2.0,  # healed halves find each other within two of these
    unknown_down_s=10.0,
    slow_facts_s=10.0,
    awareness_start=2,
)

LOCAL = Profile(
    name="local",  # several nodes on one machine: no loss, but all of them starve together
    probe_interval_s=1.0,
    probe_timeout_s=0.5,  # memberlist: 0.2. Five daemons on two cores were seen to stand still for 0.3 s
    urgent_round_s=0.75,
    suspicion_factor=1.5,
    suspicion_stretch=4.0,
    gossip_interval_s=0.1,
    gossip_fanout=3,
    push_pull_interval_s=15.0,
    lost_probe_interval_s=1.0,
    unknown_down_s=5.0,
    slow_facts_s=10.0,
    awareness_start=1,
)

WAN = Profile(
    name="wan",  # home links and free hosts: 300 ms round trips, bursts of loss, bufferbloat
    probe_interval_s=3.0,
    probe_timeout_s=1.5,  # memberlist: 3 of 5. Ten times a bad round trip
    urgent_round_s=2.5,
    suspicion_factor=2.0,
    suspicion_stretch=5.0,
    gossip_interval_s=0.5,
    gossip_fanout=4,
    push_pull_interval_s=60.0,
    lost_probe_interval_s=5.0,
    unknown_down_s=30.0,
    slow_facts_s=20.0,
    awareness_start=3,
)

PROFILES = {profile.name: profile for profile in (LAN, LOCAL, WAN)}
