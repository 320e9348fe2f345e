"""Statements made by real keys, for tests of single parts."""

from __future__ import annotations

from gossip.messages import (
    CLAIM_DOMAIN,
    Claim,
    ClaimBody,
    Dead,
    Evidence,
    Standing,
    StreamOutcome,
    Suspect,
    signed_bytes,
)
from tests.unit.gossip.network import id_of, sign_as

NO_EVIDENCE = Evidence(500, 3, 3, StreamOutcome.FAILED, link_closed=False)


def a_claim(
    name: str,
    incarnation: int,
    standing: Standing = Standing.HERE,
    *,
    until_ms: int = 0,
    address: str = "",
    signer: str | None = None,
) -> Claim:
    body = ClaimBody(id_of(name), incarnation, standing, until_ms, address or f"{name}:1")
    return Claim(body, sign_as(signer or name)(CLAIM_DOMAIN, signed_bytes(body)))


def a_suspect(name: str, incarnation: int, accuser: str, **claimed: object) -> Suspect:
    return Suspect(a_claim(name, incarnation, **claimed), id_of(accuser), NO_EVIDENCE)  # type: ignore[arg-type]


def a_death(name: str, incarnation: int, accuser: str) -> Dead:
    return Dead(a_claim(name, incarnation), id_of(accuser))
