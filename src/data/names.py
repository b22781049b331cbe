"""Names of classes and files: made readable, compared and sorted."""

__all__ = ["alike", "class_numbers", "folded", "natural", "numbered", "readable"]

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

WHOLE = re.compile(r"(\d{1,18})(\.0*)?")
NUMBER = re.compile(r"-?\d+(\.\d*)?|nan", re.IGNORECASE)
MOST_CLASSES = 100_000  # if only the largest label tells their number


def readable(name: str) -> str:
    r"""Returns a name that can be written anywhere, with `\xe9` for a byte that is not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Returns a key that sorts the numbers in names as numbers, as timm does: 2 before 10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def class_numbers(largest: int, count: int | None, where: str) -> list[str]:
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


def numbered(
    labels: Sequence[str], count: int | None, where: object, *, natural_order: bool = False
) -> tuple[list[int], list[str]]:
    """Returns the number of each label's class, and the names of the classes.

    Labels are whole numbers, or names, which are numbered in alphabetical order. 2.0 is class 2,
    as pandas writes it where another label is missing.

    Args:
        labels: Label of each image.
        count: Number of classes if labels are numbers; None for the largest label plus one.
        where: Place of the labels, for error messages.
        natural_order: Whether numbers in names are sorted as numbers.

    Raises:
        ValueError: If a label is neither a name nor a whole number, or a number is not below the
            number of classes, which is at most 100,000 unless `count` says more.
    """
    whole = [WHOLE.fullmatch(each) for each in labels]
    numbers = [int(match[1]) for match in whole if match]
    if len(numbers) == len(labels):
        return numbers, class_numbers(max(numbers), count, str(where))
    wrong = [each for each in labels if not each or re.fullmatch(r"-\d+(\.0*)?", each)]
    if numbers and all(NUMBER.fullmatch(each) for each in labels if each):
        wrong = [each for each, match in zip(labels, whole, strict=True) if not match]
    if wrong:
        raise ValueError(
            f"expected a class for each image of {where}, a name or a whole number, got "
            f"{wrong[0][:40]!r}; set labelled=false, or correct the label"
        )
    classes = sorted(set(labels), key=natural if natural_order else None)
    number = {name: label for label, name in enumerate(classes)}
    return [number[each] for each in labels], classes


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the groups of names that differ only in case or in the encoding of letters."""
    groups = defaultdict(list)
    for name in names:
        groups[folded(name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def folded(name: str) -> str:
    """Returns what names that look the same have in common."""
    return unicodedata.normalize("NFC", name).casefold()
