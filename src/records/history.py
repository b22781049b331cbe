"""The files that a selection leaves in a run directory: history, last result and stability."""

__all__ = [
    "History",
    "HistoryWriter",
    "read_history",
    "read_selection",
    "read_stability",
    "write_selection",
    "write_stability",
]

import csv
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.records.atomic import try_to_write
from src.records.literal import csv_cell, from_csv_cell
from src.records.run_files import read_bytes

log = logging.getLogger(__name__)
HISTORY = "norm_ratio.csv"
SELECTION = "selection.json"
STABILITY = "selection_stability.json"
MEANS = ("norm_id", "norm_pseudo_ood", "ratio")
COLUMNS = ("epoch", "block", "depth", *MEANS, "selected")
Array = NDArray[np.float64]


class History(NamedTuple):
    """NormRatio of L blocks, by depth, over E epochs."""

    file: Path
    epoch: list[int]
    block: list[str]
    norm_id: Array  # (E, L) mean FeatureNorm of ID images
    norm_pseudo_ood: Array  # (E, L) mean FeatureNorm of pseudo-OOD images
    ratio: Array  # (E, L)
    selected: NDArray[np.intp]  # (E,) position of the selected block, from 0


def read_history(place: Path) -> History | None:
    """Returns the NormRatio history of a run, or None if it has none.

    An epoch that a resumed run repeated counts once. One that was damaged does not count.

    Args:
        place: Run directory, or the CSV file itself.

    Raises:
        ValueError: If it is no regular file, or too large.
    """
    file = place / HISTORY if place.is_dir() else place
    whole, _ = _epochs(file)
    if not whole:
        return None
    epoch, tables = [*whole], [*whole.values()]

    def values(column: str) -> Array:
        at = COLUMNS.index(column)
        return np.array([[float(row[at]) for row in table] for table in tables])

    block = [from_csv_cell(row[1]) for row in tables[-1]]
    norm_id, norm_pseudo_ood, ratio = map(values, MEANS)
    selected = values("selected").argmax(axis=1)
    return History(file, epoch, block, norm_id, norm_pseudo_ood, ratio, selected)


def _epochs(file: Path) -> tuple[dict[int, list[list[str]]], bool]:
    """Returns the rows of each whole epoch, by depth, and whether the file holds anything else."""
    if not file.exists():
        return {}, False
    text = read_bytes(file).decode(errors="replace")
    try:
        header, *rows = csv.reader(text.splitlines() or [""])
    except csv.Error:
        return {}, True
    return whole_epochs(rows, is_damaged=header != [*COLUMNS])


def whole_epochs(
    rows: Iterable[Sequence[str]], *, is_damaged: bool = False
) -> tuple[dict[int, list[list[str]]], bool]:
    """Returns the rows of each whole epoch, by depth, and whether there are others.

    An epoch is whole if it has the blocks of most epochs, one of which is selected.
    """
    found: dict[int, dict[int, list[str]]] = {}
    for row in rows:
        try:
            epoch, _, depth, *means, selected = row
            assert [isfinite(float(mean)) for mean in means] == [True] * len(MEANS)
            found.setdefault(int(epoch), {})[int(depth)] = [*row[:-1], str(int(selected))]
        except (AssertionError, ValueError):
            is_damaged = True
    by_depth = {
        epoch: [found[epoch][at] for at in sorted(found[epoch])] for epoch in sorted(found)
    }
    blocks = {epoch: tuple(row[1] for row in rows) for epoch, rows in by_depth.items()}
    usual = Counter(blocks.values()).most_common(1)
    whole = {
        epoch: rows
        for epoch, rows in by_depth.items()
        if blocks[epoch] == usual[0][0] and [row[-1] for row in rows].count("1") == 1
    }
    return whole, is_damaged or whole.keys() != found.keys()


class HistoryWriter:
    """Writes `norm_ratio.csv`, which gains one row per block in each epoch.

    Args:
        run_dir: Run directory; the rows that an interrupted run left there are kept.
    """

    def __init__(self, run_dir: Path) -> None:
        self.file = run_dir / HISTORY
        whole, self._is_damaged = _epochs(self.file)
        self.rows = [row for rows in whole.values() for row in rows]

    def restore(self, rows: Iterable[Sequence[str]]) -> None:
        """Makes the file again, if it was damaged, from its rows in a checkpoint."""
        if self._is_damaged:
            log.warning("%s is damaged; it is made again", self.file)
            whole, _ = whole_epochs(rows)
            self.rows = [row for each in whole.values() for row in each] or self.rows
            try_to_write(self.file, self._write)

    def add(
        self, epoch: int, blocks: Sequence[str], mean: Mapping[str, Sequence[float]], selected: str
    ) -> None:
        """Writes one more epoch, in place of what an interrupted run left of it and later ones.

        Args:
            epoch: Number of the epoch, from 0.
            blocks: Names of the L blocks, by depth.
            mean: (L,) values of each of `norm_id`, `norm_pseudo_ood` and `ratio`.
            selected: Name of the selected block.
        """
        self.rows = [row for row in self.rows if int(row[0]) < epoch]
        for position, block in enumerate(blocks):
            means = [mean[name][position] for name in MEANS]
            row = [epoch, csv_cell(block), position + 1, *means, int(block == selected)]
            self.rows.append([str(value) for value in row])
        try_to_write(self.file, self._write)

    def _write(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([COLUMNS, *self.rows])


def write_selection(run_dir: Path, selection: Mapping[str, Any]) -> None:
    """Writes by what criterion the last epoch selected, and how sure it is."""
    _write(run_dir / SELECTION, selection)


def read_selection(run_dir: Path) -> dict[str, Any]:
    """Returns by what criterion a run selected, and how sure it is; empty if that is not known."""
    return _read(run_dir / SELECTION)


def write_stability(run_dir: Path, stability: Mapping[str, Any]) -> None:
    """Writes how stable the selection of the last epoch is."""
    _write(run_dir / STABILITY, stability)


def read_stability(run_dir: Path) -> dict[str, Any]:
    """Returns how stable the selection of a run is; empty if that was not measured."""
    return _read(run_dir / STABILITY)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    try_to_write(file, lambda path: path.write_text(text))


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes()) if file.exists() else {}
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    log.warning("%s is damaged; it is left out", file)
    return {}
