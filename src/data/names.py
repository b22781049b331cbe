"""Names of classes and files: made readable, compared and sorted."""

__all__ = ["alike", "folded", "natural", "numbered", "readable"]

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

MOST_CLASSES = 100_000  # if only the largest label tells their number


def readable(name: str) -> str:
    r"""Returns a name that can be written anywhere, with `\xe9` for a byte that is not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Returns a key that sorts the numbers in names as numbers, as timm does: 2 before 10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def numbered(largest: int, count: int | None, where: str) -> list[str]:
    """Returns the names of classes that are numbers.

    Args:
        largest: Largest label.
        count: Number of classes; None for the largest label plus one, at most 100,000.
        where: Place of the labels, for error messages.

    Raises:
        ValueError: If the largest label is not below the number of classes.
    """
    most = MOST_CLASSES if count is None else count
    if largest >= most:
        raise ValueError(
            f"expected labels below {'' if count is None else 'num_classes='}{most} in {where}, "
            f"got {largest}; correct it, or set num_classes if there are so many classes"
        )
    return [str(number) for number in range(largest + 1 if count is None else count)]


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the groups of names that differ only in case or in the encoding of letters."""
    groups = defaultdict(list)
    for name in names:
        groups[folded(name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def folded(name: str) -> str:
    """Returns what names that look the same have in common."""
    return unicodedata.normalize("NFC", name).casefold()
