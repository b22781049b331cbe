"""Kinds of values, by which the content of a file is checked when it is read."""

__all__ = [
    "DEEPEST",
    "Kind",
    "each",
    "fields",
    "many",
    "maybe",
    "number",
    "plain",
    "text",
    "whole",
]

import math
from collections.abc import Callable, Mapping
from typing import Any

# (value, place in the file) -> nothing; raises a ValueError that names the place
Kind = Callable[[Any, str], None]
LONGEST = 100_000  # characters of a text, elements of a list or dictionary
MOST_NODES = 100_000  # of a whole file; an alias of YAML counts as often as it is used
DEEPEST = 40


def expect(is_right: bool, expected: str, value: Any, place: str) -> None:
    """Raises a ValueError that says what was expected at a place, unless it is right."""
    if not is_right:
        is_large = isinstance(value, dict | list)
        shown = f"of {len(value)}" if is_large else f"{value!r:.40}"
        shown = f"{type(value).__name__} {shown}"
        raise ValueError(f"{expected} at {place or 'the top'}, got {shown}")


def text(value: Any, place: str) -> None:
    """A text."""
    expect(isinstance(value, str) and len(value) <= LONGEST, "a text", value, place)


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
    """A finite number between two bounds."""

    def check(value: Any, place: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = is_number and abs(value) < 1e300 and low <= value <= high
        expect(is_right, "a number" if low == -math.inf else "a number in its range", value, place)

    return check


def whole(value: Any, place: str) -> None:
    """A whole number from 0 to 10^12."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    expect(is_whole and 0 <= value <= 10**12, "a whole number", value, place)


def each(kind: Kind) -> Kind:
    """A dictionary whose values are of one kind."""

    def check(value: Any, place: str) -> None:
        is_right = isinstance(value, dict) and len(value) <= LONGEST
        expect(is_right, "a dictionary", value, place)
        for key, inner in value.items():
            kind(inner, f"{place}.{key}".lstrip("."))

    return check


def many(kind: Kind) -> Kind:
    """A list whose elements are of one kind."""

    def check(value: Any, place: str) -> None:
        expect(isinstance(value, list) and len(value) <= LONGEST, "a list", value, place)
        for at, inner in enumerate(value):
            kind(inner, f"{place}.{at}")

    return check


def maybe(kind: Kind) -> Kind:
    """None, or of a kind."""
    return lambda value, place: None if value is None else kind(value, place)


def fields(needed: Mapping[str, Kind] | None = None, **others: Kind) -> Kind:
    """A dictionary with keys of their own kinds; further keys may hold anything.

    Args:
        needed: Keys that it must have.
        others: Keys that it may have.
    """

    def check(value: Any, place: str) -> None:
        expect(isinstance(value, dict), "a dictionary", value, place)
        if missing := [key for key in needed or {} if key not in value]:
            raise ValueError(f"{', '.join(missing)} in {place or 'it'}, got none")
        for key, kind in {**(needed or {}), **others}.items():
            if key in value:
                kind(value[key], f"{place}.{key}".lstrip("."))

    return check


def plain(value: Any) -> Any:
    """Returns nested lists and dictionaries with texts as keys, if they hold few plain values.

    Raises:
        ValueError: If they hold anything else, or are too deep or too large.
    """
    left = MOST_NODES

    def copied(node: Any, place: str, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise ValueError(f"at most {MOST_NODES} values in {DEEPEST} levels, got more")
        if isinstance(node, dict):
            return {str(k): copied(v, f"{place}.{k!s:.40}", depth + 1) for k, v in node.items()}
        if isinstance(node, list | tuple):
            return [copied(inner, f"{place}.{n}", depth + 1) for n, inner in enumerate(node)]
        is_plain = node is None or isinstance(node, str | bool | int | float)
        expect(is_plain, "a plain value", node, place.lstrip("."))
        return node

    return copied(value, "", 0)
