"""Fills packets: a body, this node's own versions, and as many updates as fit the budget."""

from __future__ import annotations

from gossip.dissemination import Dissemination, transmissions_max
from gossip.members import Member, Members, MemberState
from gossip.messages import GOSSIP, PACKET_OVERHEAD_BYTES, Body, Claim, RecordAdvert, WirePacket
from gossip.outbox import Outbox, Send
from gossip.presence import Presence
from gossip.profiles import DATAGRAM_BYTES_MAX, RETRANSMIT_FACTOR
from gossip.record import RecordBook
from gossip.seal import SEAL_OVERHEAD_BYTES

_NEEDS_MY_CLAIM = frozenset({MemberState.UNKNOWN, MemberState.DOWN, MemberState.LEFT})


class Postman:
    """Sends to members, into the outbox."""

    def __init__(
        self,
        members: Members,
        presence: Presence,
        records: RecordBook,
        dissemination: Dissemination,
        outbox: Outbox,
    ) -> None:
        self._members = members
        self._presence = presence
        self._records = records
        self._dissemination = dissemination
        self._outbox = outbox

    def send(self, member: Member, body: Body, *, source: str = "", introduce: bool = False) -> bool:
        """One packet to a member.

        What is sent to an accused leads with the accusation (Lifeguard's buddy system), so that it can object first of
        all; what is sent to somebody who may not know us leads with our own claim; and who numbers its record below one
        that it signed earlier has lost its memory, and is told.

        Args:
            source: Answer there; else to where the member is thought to be.
            introduce: The member has shown that it lacks our claim.

        Returns:
            False when no address is known.
        """
        address = source or member.address
        if not address:
            return False
        first: list[bytes] = []
        if member.statement is not None and not isinstance(member.statement, Claim):
            first.append(GOSSIP.encode(member.statement))
        if introduce or member.state in _NEEDS_MY_CLAIM:
            first.append(GOSSIP.encode(self._presence.claim))
        held = self._records.version(member.node_id)
        if member.record_told is not None and member.record_told < held:
            first.append(GOSSIP.encode(RecordAdvert(member.node_id, *held)))
        self._outbox.sends.append(Send(member.node_id, address, self._fill(body, tuple(first))))
        return True

    def _fill(self, body: Body, first: tuple[bytes, ...]) -> bytes:
        record_boot, record_version = self._records.own_version
        bare = WirePacket(self._presence.incarnation, record_boot, record_version, body, ())
        room = DATAGRAM_BYTES_MAX - SEAL_OVERHEAD_BYTES - PACKET_OVERHEAD_BYTES - len(GOSSIP.encode(bare))
        transmissions = transmissions_max(len(self._members), RETRANSMIT_FACTOR)
        updates = self._dissemination.take(room, transmissions=transmissions, first=first)
        return GOSSIP.encode(WirePacket(bare.incarnation, record_boot, record_version, body, updates))
