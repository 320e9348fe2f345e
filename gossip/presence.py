"""What this node claims of itself: the one place where its incarnation is raised (pitfall 33)."""

from __future__ import annotations

from dataclasses import replace

from gossip.messages import CLAIM_DOMAIN, Claim, ClaimBody, Standing, first_incarnation, signed_bytes
from gossip.record import Sign
from mesh.names import NodeId


class Presence:
    """This node's claim. It begins above everything that an earlier start may have claimed.

    Args:
        boot_counter: Of this start; rises with every start and is on the disk before this is made.
        address: Where datagrams reach this node, as told to others.
    """

    def __init__(self, me: NodeId, *, boot_counter: int, address: str, sign: Sign) -> None:
        self._sign = sign
        self.claim = self._signed(ClaimBody(me, first_incarnation(boot_counter), Standing.HERE, 0, address))

    @property
    def incarnation(self) -> int:
        return self.claim.body.incarnation

    @property
    def standing(self) -> Standing:
        return self.claim.body.standing

    @property
    def until_ms(self) -> int:
        return self.claim.body.until_ms

    def refute(self, seen: int) -> Claim:
        """The claim that ends an accusation at incarnation `seen`: one above everything seen so far."""
        return self._next(replace(self.claim.body, incarnation=max(self.incarnation, seen) + 1))

    def stand(self, standing: Standing, until_ms: int = 0) -> Claim:
        """Claim to be here, away or gone."""
        body = self.claim.body
        return self._next(
            replace(body, incarnation=body.incarnation + 1, standing=standing, until_ms=until_ms)
        )

    def move(self, address: str) -> Claim:
        """Claim to be reached at another address."""
        body = self.claim.body
        return self._next(replace(body, incarnation=body.incarnation + 1, address=address))

    def _next(self, body: ClaimBody) -> Claim:
        self.claim = self._signed(body)
        return self.claim

    def _signed(self, body: ClaimBody) -> Claim:
        return Claim(body, self._sign(CLAIM_DOMAIN, signed_bytes(body)))
