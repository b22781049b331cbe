"""Image lists, in the format of OpenOOD or as CSV files."""

__all__ = ["ImageList"]

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.data.files import ImageFiles
from src.data.registry import where_from


class ImageList(ImageFiles):
    """Images in a list: lines of `path label`, as in OpenOOD, or a CSV file with a header.

    Args:
        path: File of the list. It is a CSV file if its name ends in .csv.
        root: Folder to which the paths are relative.
        size: Side of the images, in pixels; see `ImageFiles`.
        labelled: Whether the labels are read; if not, every label is -1.
        known: Name in the registry, which describes where to get the images.
        columns: Columns of a CSV file that hold the paths and the labels. Labels are numbers, or
            names, which are numbered in alphabetical order.
        num_classes: Number of classes if labels are numbers; None for the largest label plus one.
        options: Other arguments of `ImageFiles`: short_side, count, sample, seed, in_memory,
            on_corrupt.

    Raises:
        FileNotFoundError: If the list, the folder or an image does not exist.
        ValueError: If the list is empty, if a line has no label, if a column is missing, if a path
            leads outside the folder, or if `ImageFiles` raises it.
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
        **options: Any,
    ) -> None:
        path, root = Path(path), Path(root)
        if not path.is_file():
            raise FileNotFoundError(
                f"expected a list of images, got no file {path}{where_from(known)}"
            )
        rows = _rows_of_csv(path, columns, labelled) if path.suffix == ".csv" else _rows(path)
        if not rows:
            raise ValueError(f"expected images in the list {path}, got none; add some")
        names = [os.path.normpath(name).replace(os.sep, "/") for name, _ in rows]
        if outside := [name for name in names if name.startswith(("../", "/"))]:
            raise ValueError(
                f"expected paths below {root} in {path}, got {outside[0]!r}; set root to a folder "
                "that holds all images"
            )
        missing = next((name for name in names if not (root / name).is_file()), None)
        if missing:
            raise FileNotFoundError(
                f"expected the images of {path} in {root}, got no {missing}{where_from(known)}"
            )
        label, classes = torch.full((len(rows),), -1), list[str]()
        if labelled:
            label, classes = _numbered(path, [text for _, text in rows], num_classes)
        super().__init__(root, names, label, classes, size, **options)


def _rows(path: Path) -> list[tuple[str, str]]:
    """Returns (path, label) of each line; a path may contain spaces."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            name, _, label = line.strip().rpartition(" ")
            if not name:
                raise ValueError(
                    f"expected a path and a label in line {number} of {path}, got {line!r}"
                )
            rows.append((name, label))
    return rows


def _rows_of_csv(path: Path, columns: Sequence[str], labelled: bool) -> list[tuple[str, str]]:
    """Returns (path, label) of each row."""
    image, label = columns
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        wanted = {image, label} if labelled else {image}
        if absent := wanted - set(reader.fieldnames or ()):
            raise ValueError(
                f"expected a column {sorted(absent)[0]!r} in {path}, got "
                f"{', '.join(reader.fieldnames or ['none'])}; set columns=[<paths>,<labels>]"
            )
        return [(row[image], row[label] if labelled else "") for row in reader]


def _numbered(path: Path, text: list[str], count: int | None) -> tuple[Tensor, list[str]]:
    """Returns (N,) int64 labels and the class names."""
    if not all(re.fullmatch(r"\d+", each) for each in text):
        if wrong := [each for each in text if not each or re.fullmatch(r"-\d+", each)]:
            raise ValueError(
                f"expected a class for each image of {path}, got {wrong[0]!r}; set labelled=false"
            )
        classes = sorted(set(text))
        number = {name: label for label, name in enumerate(classes)}
        return torch.tensor([number[each] for each in text]), classes
    label = torch.tensor([int(each) for each in text])
    count = int(label.max()) + 1 if count is None else count
    if label.max() >= count:
        raise ValueError(
            f"expected labels below num_classes={count} in {path}, got {int(label.max())}"
        )
    return label, [str(k) for k in range(count)]
