"""YAML text as a small tree in which every node knows its line and column.

PyYAML composes; nothing is ever constructed from a tag. What a manifest has no use for is refused by name where it
stands: anchors, aliases and merge keys (the "billion laughs" are made of them), tags, directives, several documents,
keys given twice (YAML says that is an error, most readers take the last one in silence), deep nesting.

Source: YAML 1.1 as PyYAML implements it; positions are counted from 1, as editors do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import yaml

from mesh.errors import ManifestError

DEPTH_MAX = 8
"""A manifest needs three levels; more is a mistake or an attack on the parser's recursion."""

_OPENING = (
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
)
_CLOSING = (yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken, yaml.BlockEndToken)
_REFUSED: dict[type[yaml.Token], str] = {
    yaml.AnchorToken: "anchors (&name) are not allowed",
    yaml.AliasToken: "aliases (*name) are not allowed",
    yaml.TagToken: "tags (!name) are not allowed",
    yaml.DirectiveToken: "directives (%NAME) are not allowed",
}


class ScalarKind(Enum):
    """What YAML takes a plain word for; a quoted one is always TEXT."""

    TEXT = "text"
    INTEGER = "an integer"
    NUMBER = "a number"
    FLAG = "true or false"
    NULL = "nothing"


_KINDS = {
    "tag:yaml.org,2002:int": ScalarKind.INTEGER,
    "tag:yaml.org,2002:float": ScalarKind.NUMBER,
    "tag:yaml.org,2002:bool": ScalarKind.FLAG,
    "tag:yaml.org,2002:null": ScalarKind.NULL,
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, as it was written."""

    text: str
    kind: ScalarKind
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys in the order of the text; each occurs once."""

    entries: tuple[tuple[Scalar, Node], ...]
    line: int
    column: int


Node = Scalar | Sequence | Mapping


def mistake(node: Node, what: str, *, why: str = "", hint: str = "") -> ManifestError:
    """The error that stands at this node."""
    return ManifestError(what, line=node.line, column=node.column, why=why, hint=hint)


def describe(node: Node) -> str:
    """What a node is, in words for an error."""
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar():
            return "nothing" if node.kind is ScalarKind.NULL else repr(node.text)


def read_tree(text: str) -> Node:
    """The tree of the one document in this text.

    Raises:
        ManifestError: It is no YAML, or uses what is refused; the error says where.
    """
    try:
        _refuse_what_is_not_needed(text)
        composed = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _translated(error) from error
    except yaml.reader.ReaderError as error:
        line, column = _position(text, error.position)
        raise ManifestError("a control character stands here", line=line, column=column) from error
    if composed is None:
        raise ManifestError("the manifest is empty", line=1, column=1, hint="it needs at least name and command")
    return _converted(composed)


def _refuse_what_is_not_needed(text: str) -> None:
    """One pass over the tokens, before anything recursive looks at the text."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        what = _REFUSED.get(type(token))
        if what is not None:
            raise _at(token.start_mark, what, hint="write the value out")
        if isinstance(token, _OPENING):
            depth += 1
        elif isinstance(token, _CLOSING):
            depth -= 1
        if depth > DEPTH_MAX:
            raise _at(token.start_mark, f"nested deeper than {DEPTH_MAX} levels")


def _converted(node: yaml.Node) -> Node:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    match node:
        case yaml.ScalarNode():
            return Scalar(node.value, _KINDS.get(node.tag, ScalarKind.TEXT), line, column)
        case yaml.SequenceNode():
            return Sequence(tuple(_converted(item) for item in node.value), line, column)
        case yaml.MappingNode():
            return Mapping(tuple(_entries(node)), line, column)
    raise AssertionError(f"PyYAML composed a {type(node).__name__}")


def _entries(node: yaml.MappingNode) -> Iterator[tuple[Scalar, Node]]:
    seen: dict[str, int] = {}
    for raw_key, raw_value in node.value:
        key = _converted(raw_key)
        if not isinstance(key, Scalar) or key.kind is ScalarKind.NULL:
            raise mistake(key, "a key has to be a word")
        if key.text in seen:
            raise mistake(key, f"{key.text!r} is given twice", why=f"first on line {seen[key.text]}")
        seen[key.text] = key.line
        yield key, _converted(raw_value)


def _translated(error: yaml.MarkedYAMLError) -> ManifestError:
    """PyYAML's words are for people who know its grammar; these two mistakes deserve plainer ones."""
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "not YAML"
    if "'\\t'" in problem:
        return _at(mark, "a tab stands where YAML wants spaces", hint="indent with spaces")
    if "but found another document" in problem:
        return _at(mark, "a second document begins here", hint="one manifest a file")
    return _at(mark, "this is not YAML", why=problem)


def _at(mark: yaml.Mark | None, what: str, *, why: str = "", hint: str = "") -> ManifestError:
    line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
    return ManifestError(what, line=line, column=column, why=why, hint=hint)


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1
