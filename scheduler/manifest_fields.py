"""Reading one value of a manifest: checked, with its unit, or an error at the place where it stands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection

from scheduler.yaml_nodes import Mapping, Node, Scalar, ScalarKind, Sequence, describe, mistake

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)(K|M|G|T|Ki|Mi|Gi|Ti)")
_BYTES = {
    "K": 1000,
    "M": 1000**2,
    "G": 1000**3,
    "T": 1000**4,
    "Ki": 1024,
    "Mi": 1024**2,
    "Gi": 1024**3,
    "Ti": 1024**4,
}


class Section:
    """A mapping of the manifest whose keys are known beforehand.

    Args:
        node: Where it stands.
        name: The key it stands under, for errors; "" for the whole manifest.
        known: The keys it may have; any other is refused with the nearest of these.
    """

    def __init__(self, node: Node, name: str, known: Collection[str]) -> None:
        if not isinstance(node, Mapping):
            subject = f"{name} has to be a mapping" if name else "a manifest is a mapping of keys to values"
            raise mistake(node, subject, why=f"this is {describe(node)}", hint=_example(name, known))
        self.node = node
        self._name = name
        self._values = {key.text: value for key, value in node.entries}
        for key, _ in node.entries:
            if key.text not in known:
                raise mistake(key, f"unknown key {self._path(key.text)!r}", hint=nearest(key.text, known))

    def has(self, key: str) -> bool:
        return key in self._values

    def node_of(self, key: str) -> Node:
        """Where a key's value stands; the section itself for a key that is not given."""
        return self._values.get(key, self.node)

    def text(self, key: str, default: str, *, bytes_max: int = 4096) -> str:
        value = self._values.get(key)
        return default if value is None else text_of(value, self._path(key), bytes_max=bytes_max)

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, Scalar) or value.kind is not ScalarKind.FLAG:
            raise mistake(value, f"{self._path(key)} is true or false", why=f"this is {describe(value)}")
        return value.text.lower() in ("true", "yes", "on")

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._values.get(key)
        return default if value is None else integer_of(value, self._path(key), low, high)

    def duration_s(self, key: str, default: float, low: float, high: float) -> float:
        value = self._values.get(key)
        return default if value is None else duration_of(value, self._path(key), low, high)

    def size_bytes(self, key: str, default: int, low: int, high: int) -> int:
        value = self._values.get(key)
        return default if value is None else size_of(value, self._path(key), low, high)

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key


def nearest(word: str, known: Collection[str]) -> str:
    """A hint that names the key which was probably meant."""
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}?" if found else f"known are {', '.join(known)}"


def text_of(node: Node, path: str, *, bytes_max: int = 4096) -> str:
    """Any scalar as it was written: `MODE: yes` is the text "yes" and `DEBUG: 1` the text "1"."""
    if not isinstance(node, Scalar) or node.kind is ScalarKind.NULL:
        raise mistake(node, f"{path} is a text", why=f"this is {describe(node)}")
    if "\0" in node.text:
        raise mistake(node, f"{path} may not contain a NUL character")
    if len(node.text.encode("utf-8", "surrogatepass")) > bytes_max:
        raise mistake(node, f"{path} is longer than {bytes_max} bytes")
    return node.text


def integer_of(node: Node, path: str, low: int, high: int) -> int:
    text = text_of(node, path)
    if not re.fullmatch(r"-?(0|[1-9]\d{0,17})", text):
        raise mistake(node, f"{path} is a whole number", why=f"this is {describe(node)}")
    return int(_bounded(node, path, int(text), low, high, str))


def number_of(node: Node, path: str, low: float, high: float) -> float:
    text = text_of(node, path)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        hint = f"write {int(text[:-1]) / 1000:g}" if re.fullmatch(r"\d{1,6}m", text) else ""
        raise mistake(node, f"{path} is a number", why=f"this is {describe(node)}", hint=hint)
    return _bounded(node, path, float(text), low, high, lambda number: f"{number:g}")


def duration_of(node: Node, path: str, low: float, high: float) -> float:
    return _bounded(node, path, _seconds(node, path, text_of(node, path)), low, high, show_duration)


def duration_range_of(node: Node, path: str, low: float, high: float) -> tuple[float, float]:
    """`1s..60s`: both ends within the bounds, the first not above the second."""
    first, dots, second = text_of(node, path).partition("..")
    if not dots:
        raise mistake(node, f"{path} is a range of durations", why=f"this is {describe(node)}", hint="such as 1s..60s")
    start = _bounded(node, path, _seconds(node, path, first.strip()), low, high, show_duration)
    end = _bounded(node, path, _seconds(node, path, second.strip()), low, high, show_duration)
    if start > end:
        raise mistake(node, f"{path} ends before it begins", hint=f"write {second.strip()}..{first.strip()}")
    return start, end


def size_of(node: Node, path: str, low: int, high: int) -> int:
    text = text_of(node, path)
    found = _SIZE.fullmatch(text)
    if found is None:
        hint = f"write {text}Mi" if text.isdecimal() else "such as 256Mi or 1Gi"
        raise mistake(node, f"{path} is a size with its unit", why=f"this is {describe(node)}", hint=hint)
    return int(_bounded(node, path, int(float(found[1]) * _BYTES[found[2]]), low, high, show_size))


def choice_of(node: Node, path: str, known: Collection[str]) -> str:
    text = text_of(node, path)
    if text not in known:
        raise mistake(node, f"{path} is one of {', '.join(known)}", why=f"this is {describe(node)}")
    return text


def items_of(node: Node, path: str, count_max: int) -> tuple[Node, ...]:
    if not isinstance(node, Sequence):
        raise mistake(node, f"{path} is a list", why=f"this is {describe(node)}", hint="such as [ONE, TWO]")
    if len(node.items) > count_max:
        raise mistake(node.items[count_max], f"{path} has more than {count_max} items")
    return node.items


def pairs_of(node: Node, path: str, count_max: int) -> tuple[tuple[Scalar, Node], ...]:
    if not isinstance(node, Mapping):
        raise mistake(node, f"{path} is a mapping", why=f"this is {describe(node)}", hint="such as {key: value}")
    if len(node.entries) > count_max:
        raise mistake(node.entries[count_max][0], f"{path} has more than {count_max} keys")
    return node.entries


def show_duration(seconds: float) -> str:
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:g}h"
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"


def show_size(size_bytes: float) -> str:
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size_bytes >= _BYTES[unit]:
            return f"{size_bytes / _BYTES[unit]:.4g}{unit}"
    return f"{size_bytes:g} bytes"


def _seconds(node: Node, path: str, text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        hint = f"write {text}s" if text.isdecimal() else "such as 500ms, 2s or 1m"
        raise mistake(node, f"{path} is a duration with its unit", why=f"this is {text!r}", hint=hint)
    return float(found[1]) * _SECONDS[found[2]]


def _bounded(node: Node, path: str, value: float, low: float, high: float, show: Callable[[float], str]) -> float:
    if not low <= value <= high:
        raise mistake(node, f"{path} is {show(value)}", why=f"it has to be {show(low)} to {show(high)}")
    return value


def _example(name: str, known: Collection[str]) -> str:
    first = next(iter(known))
    return f"write {name}: {{{first}: …}}" if name else ""
