"""Methods that the tests call."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.names import Role
from mesh.rpc import Lane, Method, Shape
from mesh.versioned import Codec

TEST = Codec()


@TEST.message("test.text")
@dataclass(frozen=True, slots=True)
class Text:
    text: str


@TEST.message("test.bytes")
@dataclass(frozen=True, slots=True)
class Bytes:
    payload: bytes


ECHO = Method("test.echo", Text, Text, TEST, Role.MEMBER, Lane.CONTROL, Shape.UNARY)
TRUSTED_ECHO = Method("test.trusted", Text, Text, TEST, Role.TRUSTED, Lane.CONTROL, Shape.UNARY)
VOTER_ECHO = Method("test.voter", Text, Text, TEST, Role.VOTER, Lane.CONTROL, Shape.UNARY)
COUNT = Method("test.count", Text, Text, TEST, Role.MEMBER, Lane.BULK, Shape.STREAM)
LARGE = Method("test.large", Bytes, Bytes, TEST, Role.MEMBER, Lane.BULK, Shape.UNARY)
BEAT = Method("test.beat", Text, None, TEST, Role.MEMBER, Lane.CONSENSUS, Shape.NOTICE)
VOTER_BEAT = Method("test.voter-beat", Text, None, TEST, Role.VOTER, Lane.CONSENSUS, Shape.NOTICE)
