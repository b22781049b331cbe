"""Image lists, in the format of OpenOOD or as CSV files."""

__all__ = ["ImageList", "listed", "path_in"]

import codecs
import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from src.data.files import ImageFiles
from src.data.names import numbered
from src.data.opening import SUFFIXES
from src.data.registry import where_from


class ImageList(ImageFiles):
    """Images in a list: lines of `path label`, as in OpenOOD, or a CSV file with a header.

    The list is text in UTF-8, in UTF-16 with its mark, or else in Latin-1.

    Args:
        path: File of the list. It is a CSV file if its name ends in .csv.
        root: Folder to which the paths are relative.
        size: Side of the images, in pixels; see `ImageFiles`.
        labelled: Whether the labels are read; if not, every label is -1.
        known: Name in the registry, which describes where to get the images.
        columns: Columns of a CSV file that hold the paths and the labels. Labels are numbers, or
            names, which are numbered in alphabetical order. 2.0 is class 2.
        num_classes: Number of classes if labels are numbers; None for the largest label plus one,
            which must then be at most 100,000.
        natural_order: Whether numbers in the names of classes are sorted as numbers, as in timm.
        max_bytes: Largest size of the list, in bytes.
        options: Other arguments of `ImageFiles`: short_side, count, sample, seed, in_memory,
            on_corrupt, max_pixels.

    Raises:
        FileNotFoundError: If the list, the folder or an image does not exist.
        ValueError: If the list is empty, too large or no text, if a line has no label, if a label
            is neither a name nor a whole number, if a column is missing, if a path leads outside
            the folder, or if `ImageFiles` raises it.
    """

    def __init__(
        self,
        path: str | Path,
        root: str | Path,
        size: int,
        *,
        labelled: bool = True,
        known: str | None = None,
        columns: Sequence[str] = ("path", "label"),
        num_classes: int | None = None,
        natural_order: bool = False,
        max_bytes: int = 2**28,
        **options: Any,
    ) -> None:
        path, root = Path(path), Path(root)
        if not path.is_file():
            raise FileNotFoundError(
                f"expected a list of images, got no file {path}{where_from(known)}"
            )
        text = _text(path, max_bytes)
        is_csv = path.suffix.lower() == ".csv"
        rows = _rows_of_csv(path, text, columns, labelled) if is_csv else _rows(path, text)
        if not rows:
            raise ValueError(f"expected images in the list {path}, got none; add some")
        names = [os.path.normpath(name).replace(os.sep, "/") for name, _ in rows]
        if outside := [name for name in names if name.startswith(("../", "/"))]:
            raise ValueError(
                f"expected paths below {root} in {path}, got {outside[0]!r}; set root to a folder "
                "that holds all images"
            )
        found = [_on_disk(root, name) for name in names]
        if missing := [name for name, file in zip(names, found, strict=True) if file is None]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FileNotFoundError(
                f"expected the images of {path} in {root}, got no {missing[0]}{more}"
                f"{where_from(known)}"
            )
        label, classes = torch.full((len(rows),), -1), list[str]()
        if labelled:
            labels = [label.strip() for _, label in rows]
            numbers, classes = numbered(labels, num_classes, path, natural_order=natural_order)
            label = torch.tensor(numbers)
        super().__init__(root, [name for name in found if name], label, classes, size, **options)


def listed(path: Path, max_bytes: int = 2**28) -> list[str]:
    """Returns the paths in a list, relative to its folder, whether or not they have labels.

    Args:
        path: CSV file with a column `path`, or text with a path in each line; see `path_in`.
        max_bytes: Largest size of the list, in bytes.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large, no text, or a CSV file without such a column.
    """
    text = _text(path, max_bytes)
    if path.suffix.lower() == ".csv":
        names = [name for name, _ in _rows_of_csv(path, text, ("path", ""), labelled=False)]
    else:
        names = [path_in(line) for line in StringIO(text, newline=None) if line.strip()]
    return [_on_disk(path.parent, name) or name for name in names]


def path_in(line: str) -> str:
    """Returns the path in a line `path` or `path label`.

    What follows the last space is a label, unless the line ends as the name of a picture does.
    """
    line = line.strip()
    if line.lower().endswith(SUFFIXES):
        return line
    return line.rpartition(" ")[0].rstrip() or line


def _text(path: Path, max_bytes: int) -> str:
    """Returns the text of a list, whatever program wrote it."""
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(
            f"expected a list of at most {max_bytes} bytes, got {path} with {size}; set max_bytes "
            "to permit it"
        )
    data = path.read_bytes()
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"expected a list of images, got {path}, which is no text; correct it")
    return text


def _on_disk(root: Path, name: str) -> str | None:
    """Returns a file's name on the disk, where letters may be encoded otherwise, or None."""
    for each in _spellings(name):
        with suppress(OSError):  # a name too long for a file
            if (root / each).is_file():
                return each
    return None


def _spellings(name: str) -> Iterator[str]:
    """Returns a name as it is, with its bytes in Latin-1, and with letters composed or not."""
    yield name
    with suppress(UnicodeEncodeError):
        yield os.fsdecode(name.encode("latin-1"))
    yield unicodedata.normalize("NFC", name)
    yield unicodedata.normalize("NFD", name)


def _rows(path: Path, text: str) -> list[tuple[str, str]]:
    """Returns (path, label) of each line; a path may contain spaces."""
    rows = []
    for number, line in enumerate(StringIO(text, newline=None), 1):
        if line.strip():
            name, _, label = line.strip().rpartition(" ")
            if not name:
                raise ValueError(
                    f"expected a path and a label in line {number} of {path}, got {line[:80]!r}"
                )
            rows.append((name, label))
    return rows


def _rows_of_csv(
    path: Path, text: str, columns: Sequence[str], labelled: bool
) -> list[tuple[str, str]]:
    """Returns (path, label) of each row."""
    image, label = columns
    wanted = {image, label} if labelled else {image}
    reader = csv.DictReader(StringIO(text, newline=""))
    rows = []
    try:
        if absent := wanted - set(reader.fieldnames or ()):
            raise ValueError(
                f"expected a column {sorted(absent)[0]!r} in {path}, got "
                f"{', '.join(reader.fieldnames or ['none'])}; set columns=[<paths>,<labels>]"
            )
        for row in reader:
            if any(row[name] is None for name in wanted) or any(row.get(None, ())):
                raise ValueError(
                    f"expected {len(reader.fieldnames or ())} cells in line {reader.line_num} of "
                    f"{path}, got others; put a path that holds a comma into quotes"
                )
            rows.append((row[image], row[label] if labelled else ""))
    except csv.Error as error:
        raise ValueError(
            f"expected a CSV file, got {path}, whose line {reader.line_num + 1} cannot be read "
            f"({error}); correct it"
        ) from None
    return rows
