"""How frozen dataclasses are written on a wire or a disk: msgpack with a kind and a version (rule T6).

A message is `[kind, version, [field, …]]`; its fields are positional, typed by the dataclass and checked on the way
in, so that nothing of a wrong type or size ever reaches a machine. A field added later has a default and raises the
version: a newer program reads the older form by `upgrades`, an older program that meets a newer version says
`UpgradeNeeded` and never guesses. Nested dataclasses that are not messages are written as their fields alone.

Encoding is canonical (mappings and sets are sorted), so equal values give equal bytes: signatures and digests
may be taken over them.

Source: chained versions as in Garage's `util/migrate.rs`; limits: see `Limits`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import msgpack

from mesh.errors import ProtocolError, UpgradeNeeded

T = TypeVar("T")
Convert = Callable[[Any], Any]
Upgrade = Callable[[list[Any]], list[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts; everything is checked before memory is taken for it.

    Bulk payloads (chunks, archives, Raft entries) are single byte strings under `bytes_max`.
    """

    total_bytes_max: int = 1024 * 1024 + 1024
    text_bytes_max: int = 64 * 1024
    bytes_max: int = 1024 * 1024
    items_max: int = 10_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Kind:
    cls: type
    kind: str
    version: int
    upgrades: Mapping[int, Upgrade]


class Codec:
    """The table of message kinds of one domain (gossip, RPC, ledger entries, …); filled at import, then constant."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._by_kind: dict[str, _Kind] = {}
        self._by_class: dict[type, _Kind] = {}
        self._encoders: dict[type, Convert] = {}
        self._decoders: dict[type, Convert] = {}

    @property
    def limits(self) -> Limits:
        """What this codec's decoder accepts; who reads messages off a stream stops there."""
        return self._limits

    def message(
        self, kind: str, version: int = 1, upgrades: Mapping[int, Upgrade] | None = None
    ) -> Callable[[type[T]], type[T]]:
        """Class decorator: gives a frozen dataclass its name and version on the wire.

        Args:
            kind: The stable name, unique in this codec.
            version: Raised with every change of the fields.
            upgrades: For each older version, what turns its list of raw fields into the next version's.
        """

        def register(cls: type[T]) -> type[T]:
            if kind in self._by_kind:
                raise AssertionError(f"message kind {kind!r} is taken by {self._by_kind[kind].cls}")
            entry = _Kind(cls, kind, version, dict(upgrades or {}))
            self._by_kind[kind] = entry
            self._by_class[cls] = entry
            return cls

        return register

    def kinds(self) -> dict[str, int]:
        """Every kind with its current version, for tests and documentation."""
        return {entry.kind: entry.version for entry in self._by_kind.values()}

    def classes(self) -> tuple[type, ...]:
        """Every registered class, in the order of registration."""
        return tuple(self._by_class)

    def kind_of(self, message: object) -> str:
        """The wire name of a message of this codec."""
        return self._by_class[type(message)].kind

    def encode(self, message: object) -> bytes:
        """The canonical bytes of a registered message."""
        packed: bytes = msgpack.packb(self._tagged(message), use_bin_type=True)
        return packed

    def decode(self, payload: bytes | bytearray | memoryview, expected: type[T] | None = None) -> T:
        """The message in these bytes.

        Args:
            payload: What `encode` wrote, perhaps by another version of this program, perhaps by an enemy.
            expected: The class it has to be; anything else is an error.

        Raises:
            ProtocolError: The bytes are no message of this codec, or break a limit.
            UpgradeNeeded: A kind or version that this program does not know yet.
        """
        message = self._untagged(_unpack(payload, self._limits))
        if expected is not None and type(message) is not expected:
            raise ProtocolError(f"expected a {expected.__name__} and got a {type(message).__name__}")
        return typing.cast(T, message)

    def _tagged(self, message: object) -> list[Any]:
        entry = self._by_class.get(type(message))
        if entry is None:
            raise AssertionError(f"{type(message).__name__} is not a message of this codec")
        return [entry.kind, entry.version, self._encoder(entry.cls)(message)]

    def _untagged(self, raw: Any) -> object:
        match raw:
            case [str(kind), int(version), list(fields)] if not isinstance(version, bool):
                pass
            case _:
                raise ProtocolError("not a message", why="expected [kind, version, fields]")
        entry = self._by_kind.get(kind)
        if entry is None:
            raise UpgradeNeeded(f"unknown message kind {kind!r}", hint="upgrade this node")
        if version > entry.version:
            raise UpgradeNeeded(
                f"{kind!r} has version {version} and this program knows {entry.version}", hint="upgrade this node"
            )
        for old in range(version, entry.version):
            upgrade = entry.upgrades.get(old)
            if upgrade is None:
                raise ProtocolError(f"{kind!r} version {old} is no longer readable")
            fields = upgrade(fields)
        return self._decoder(entry.cls)(fields)

    def _encoder(self, cls: type) -> Convert:
        if cls not in self._encoders:
            self._encoders[cls] = self._build_encoder(cls)
        return self._encoders[cls]

    def _decoder(self, cls: type) -> Convert:
        if cls not in self._decoders:
            self._decoders[cls] = self._build_decoder(cls)
        return self._decoders[cls]

    def _build_encoder(self, cls: type) -> Convert:
        hints = typing.get_type_hints(cls)
        fields = [(f.name, self._encode_as(hints[f.name])) for f in dataclasses.fields(cls)]
        return lambda message: [convert(getattr(message, name)) for name, convert in fields]

    def _build_decoder(self, cls: type) -> Convert:
        hints = typing.get_type_hints(cls)
        fields = [(f.name, self._decode_as(hints[f.name])) for f in dataclasses.fields(cls)]
        count = len(fields)

        def decode(raw: Any) -> Any:
            if type(raw) is not list or len(raw) != count:
                raise ProtocolError(f"damaged {cls.__name__}", why=f"expected {count} fields")
            try:
                return cls(*[convert(value) for (_, convert), value in zip(fields, raw, strict=True)])
            except (ValueError, TypeError) as error:
                raise ProtocolError(f"damaged {cls.__name__}", why=str(error)) from error

        return decode

    def _encode_as(self, hint: Any) -> Convert:
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if isinstance(hint, typing.NewType):
            return self._encode_as(hint.__supertype__)
        if origin in (typing.Union, types.UnionType):
            return self._encode_union(arguments)
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            each = self._encode_as(arguments[0])
            return lambda values: [each(value) for value in values]
        if origin is tuple:
            parts = [self._encode_as(argument) for argument in arguments]
            return lambda values: [part(value) for part, value in zip(parts, values, strict=True)]
        if origin is frozenset:
            member = self._encode_as(arguments[0])
            return lambda values: sorted(member(value) for value in values)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return lambda value: value.value
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return lambda value: self._encoder(hint)(value)
        if hint is float:
            return float
        if hint in (int, str, bytes, bool):
            return _as_it_is
        raise AssertionError(f"no wire form for {hint!r}")

    def _encode_union(self, arguments: tuple[Any, ...]) -> Convert:
        others = [argument for argument in arguments if argument is not types.NoneType]
        if len(others) == 1:
            one = self._encode_as(others[0])
            return lambda value: None if value is None else one(value)
        return lambda value: None if value is None else self._tagged(value)

    def _decode_as(self, hint: Any) -> Convert:
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if isinstance(hint, typing.NewType):
            return self._decode_as(hint.__supertype__)
        if origin in (typing.Union, types.UnionType):
            return self._decode_union(arguments)
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return _sequence_of(self._decode_as(arguments[0]), tuple)
        if origin is tuple:
            return _fixed_tuple([self._decode_as(argument) for argument in arguments])
        if origin is frozenset:
            return _sequence_of(self._decode_as(arguments[0]), frozenset)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return hint
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return lambda raw: self._decoder(hint)(raw)
        if hint in (int, str, bytes, bool, float):
            return _exactly(hint)
        raise AssertionError(f"no wire form for {hint!r}")

    def _decode_union(self, arguments: tuple[Any, ...]) -> Convert:
        others = [argument for argument in arguments if argument is not types.NoneType]
        may_be_none = len(others) < len(arguments)
        if len(others) == 1:
            one = self._decode_as(others[0])
            return lambda raw: None if raw is None else one(raw)

        def decode(raw: Any) -> Any:
            if raw is None and may_be_none:
                return None
            message = self._untagged(raw)
            if type(message) not in others:
                raise ProtocolError(f"a {type(message).__name__} may not stand here")
            return message

        return decode


def _as_it_is(value: Any) -> Any:
    return value


def _exactly(hint: type) -> Convert:
    def check(raw: Any) -> Any:
        if type(raw) is not hint:
            raise ProtocolError(f"expected {hint.__name__} and got {type(raw).__name__}")
        return raw

    return check


def _sequence_of(each: Convert, build: Callable[[Any], Any]) -> Convert:
    def decode(raw: Any) -> Any:
        if type(raw) is not list:
            raise ProtocolError(f"expected a list and got {type(raw).__name__}")
        return build(each(value) for value in raw)

    return decode


def _fixed_tuple(parts: list[Convert]) -> Convert:
    def decode(raw: Any) -> Any:
        if type(raw) is not list or len(raw) != len(parts):
            raise ProtocolError(f"expected a list of {len(parts)}")
        return tuple(part(value) for part, value in zip(parts, raw, strict=True))

    return decode


def _unpack(payload: bytes | bytearray | memoryview, limits: Limits) -> Any:
    if len(payload) > limits.total_bytes_max:
        raise ProtocolError(f"message of {len(payload)} bytes", why=f"the limit is {limits.total_bytes_max}")
    try:
        return msgpack.unpackb(
            payload,
            raw=False,
            use_list=True,
            max_str_len=limits.text_bytes_max,
            max_bin_len=limits.bytes_max,
            max_array_len=limits.items_max,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ProtocolError("not a message", why=str(error) or type(error).__name__) from error
